//! The summary of a hand-over.

use std::collections::{BTreeSet, HashMap};

use crate::catalog;
use crate::catalog::not_migrated::{IndexesLeftOut, is_view_of_buckets, not_migrated};
use crate::checkpoint::{States, WayBack};
use crate::cutover::compare::Comparison;
use crate::engine::users::Carried;
use crate::model::{self, Collection, Deployment, Namespace, Position};
use crate::report::{AppliedRules, Certificate, CollectionSummary, LateWrites, Outcome, Summary, users_not_migrated};
use crate::runtime::job::Job;
use crate::runtime::progress::RunState;

/// Both sides at the end of the migration.
pub(super) struct Sides {
    pub listed: Vec<Collection>,
    pub standing: Vec<Collection>,
    /// Indexes that the target is not to have. The listings do not contain them.
    pub indexes_left_out: Vec<IndexesLeftOut>,
    /// All databases of the source.
    pub databases: BTreeSet<String>,
    pub source: Deployment,
    pub target: Deployment,
    /// Users and roles, if they are to be carried.
    pub users: Option<Carried>,
    /// The position from which the way back starts.
    pub handed_over: Option<Position>,
}

/// Builds the summary of the hand-over.
pub(super) fn summarize(
    (engine, progress): (&Job, &RunState),
    position: Position,
    states: &States,
    found: Option<&HashMap<Namespace, Comparison>>,
    sides: &Sides,
    late_writes: &LateWrites,
) -> Summary {
    let (listed, standing) = (model::by_name(&sides.listed), model::by_name(&sides.standing));
    let servers = [catalog::series(&sides.source), catalog::series(&sides.target)];
    let (mut indexes, mut not_kept) = (Vec::new(), Vec::new());
    let mut collections = Vec::new();
    for state in states.iter() {
        let comparison = found.and_then(|found| found.get(&state.namespace));
        let mut differences = match comparison {
            Some(comparison) => comparison.differences.clone(),
            None => progress.refused.of(&state.namespace),
        };
        let target = standing.get(&state.target).copied();
        match listed.get(&state.namespace) {
            Some(source) => {
                differences.extend(catalog::compare_options(source, target, &servers));
                indexes.extend(catalog::compare_indexes(source, target, &servers));
                let lost = catalog::not_kept(source, target, servers[1]);
                not_kept.extend(lost.into_iter().map(|(_, lost)| lost));
            }
            None => differences.push("it no longer exists on the source".to_owned()),
        }
        let rules = engine.shaping.of(&state.namespace).map(|rule| AppliedRules {
            rules: rule.records(),
            source_documents: listed.get(&state.namespace).map_or(0, |source| source.documents),
            failed: engine.shaping.failed_of(&state.namespace),
        });
        collections.push(CollectionSummary {
            namespace: state.namespace.clone(),
            target: state.target.clone(),
            documents: target.map(|target| target.documents).unwrap_or_default(),
            verified: comparison.is_some() && differences.is_empty(),
            digest: comparison.and_then(|comparison| comparison.digest.clone()),
            differences,
            rules,
        });
    }
    let same =
        collections.iter().all(|collection| collection.differences.is_empty()) && indexes.iter().all(|index| index.ok);
    let selection = &engine.settings.selection;
    let left_out: Vec<_> = sides
        .listed
        .iter()
        .filter(|collection| !selection.contains(&collection.namespace) || is_view_of_buckets(collection))
        .collect();
    let carried = sides.users.as_ref().map(|carried| &carried.summary);
    let users = users_not_migrated(&engine.settings.users, carried);
    let not_migrated = not_migrated(&sides.databases, selection, &left_out, &sides.indexes_left_out, users);
    let deployments = (&sides.source, &sides.target);
    let certificate = same.then(|| {
        let notes = (&*not_migrated, &*not_kept, late_writes);
        Certificate::issue(
            engine.settings.run_id.clone(),
            deployments,
            position,
            &collections,
            (&listed, &standing),
            notes,
            carried,
        )
    });
    let way_back = sides.handed_over.filter(|_| same).map(|handed_over| {
        let users = sides.users.as_ref().map(|carried| carried.at_hand_over.clone());
        WayBack::begin(engine, deployments, handed_over, states, &standing, users)
    });
    Summary {
        outcome: if same { Outcome::Complete } else { Outcome::Differences },
        position: Some(position),
        collections,
        indexes,
        late_writes: late_writes.clone(),
        resyncs: progress.resyncs(),
        foreign_writes: progress.foreign_writes.all(),
        left_selection: progress.left_selection.all(),
        not_migrated,
        not_kept,
        users: carried.cloned(),
        certificate,
        way_back,
    }
}
