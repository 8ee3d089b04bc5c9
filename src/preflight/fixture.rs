//! Facts for the tests of the rules.

use bson::raw::RawDocumentBuf;
use bson::rawdoc;

use super::users::UsersOutlook;
use super::{Checkpointed, Context, PlannedCollection, SideFacts};
use crate::config::Settings;
use crate::error::Finding;
use crate::model::{Amount, Collection, CollectionKind, Deployment, Inspection, Side};
use crate::runtime::register::Register;

/// Two healthy 6.0 sets with no further facts, and an empty plan.
pub(super) struct Facts {
    pub settings: Settings,
    pub source: SideFacts,
    pub target: SideFacts,
    pub total: Amount,
    pub checkpointed: Checkpointed,
    pub lease_holder: Option<String>,
    pub register: Register,
    pub users: UsersOutlook,
    listed: Vec<Collection>,
    selected: usize,
    standing: Vec<Collection>,
    planned: Vec<PlannedCollection>,
}

impl Facts {
    pub fn new() -> Self {
        let side = |side: Side, name: &'static str| SideFacts {
            side,
            name,
            deployment: Deployment {
                identity: name.to_owned(),
                name: name.to_owned(),
                version: [6, 0, 5],
                feature_compatibility: [6, 0],
            },
            inspection: Inspection::default(),
            unlisted: None,
        };
        Self {
            settings: Settings::default(),
            source: side(Side::Source, "source"),
            target: side(Side::Target, "target"),
            total: Amount::default(),
            checkpointed: Checkpointed::Not,
            lease_holder: None,
            register: Register::default(),
            users: UsersOutlook::None,
            listed: Vec::new(),
            selected: 0,
            standing: Vec::new(),
            planned: Vec::new(),
        }
    }

    /// Plans a collection with these names.
    pub fn plan(&mut self, namespace: &str, target: &str) {
        self.planned.push(PlannedCollection {
            namespace: namespace.parse().unwrap(),
            target: target.parse().unwrap(),
            kind: CollectionKind::Plain,
            amount: Amount::default(),
            indexes: 1,
            rules: Vec::new(),
        });
    }

    /// Selects a collection that keeps its name.
    pub fn collection(&mut self, namespace: &str, kind: CollectionKind, options: RawDocumentBuf) {
        self.plan(namespace, namespace);
        let mut collection = collection(namespace, kind);
        collection.options = options;
        self.listed.insert(self.selected, collection);
        self.selected += 1;
    }

    /// Sets the indexes of the collection selected last.
    pub fn indexes(&mut self, indexes: Vec<RawDocumentBuf>) {
        self.listed[self.selected - 1].indexes = indexes;
    }

    /// Lists a collection that is not selected.
    pub fn left_out(&mut self, namespace: &str) {
        self.listed.push(collection(namespace, CollectionKind::Plain));
    }

    /// Adds a collection to the target.
    pub fn standing(&mut self, namespace: &str) {
        self.standing.push(collection(namespace, CollectionKind::Plain));
    }
}

/// An empty collection with only the index on `_id`.
fn collection(namespace: &str, kind: CollectionKind) -> Collection {
    Collection {
        id: bson::Uuid::from_bytes([0; 16]),
        namespace: namespace.parse().unwrap(),
        kind,
        options: RawDocumentBuf::new(),
        indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
        documents: 0,
        bytes: 0,
    }
}

/// Returns the findings of a rule.
pub(super) fn findings(facts: &Facts, rule: fn(&Context<'_>, &mut Vec<Finding>)) -> Vec<Finding> {
    let selected: Vec<&Collection> = facts.listed[..facts.selected].iter().collect();
    let context = Context {
        settings: &facts.settings,
        source: &facts.source,
        target: &facts.target,
        listed: &facts.listed,
        selected: &selected,
        standing: &facts.standing,
        planned: &facts.planned,
        total: facts.total,
        checkpointed: &facts.checkpointed,
        lease_holder: facts.lease_holder.as_deref(),
        register: &facts.register,
        users: &facts.users,
    };
    let mut findings = Vec::new();
    rule(&context, &mut findings);
    findings
}

/// Returns the codes of a rule's findings.
pub(super) fn codes(facts: &Facts, rule: fn(&Context<'_>, &mut Vec<Finding>)) -> Vec<&'static str> {
    findings(facts, rule)
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}
