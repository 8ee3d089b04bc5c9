//! What has to be done so that the target has the source's users and roles.

use std::collections::{BTreeMap, BTreeSet};

use bson::RawBsonRef;

use super::mapping;
use super::{ExistingUsers, Fingerprint, KnownName, UserSelection, UsersAtHandOver, fingerprint, is_same};
use crate::model::{Account, AccountKind, AccountName, Accounts, Selection};

/// The database of users whose credentials are kept elsewhere.
const EXTERNAL: &str = "$external";

/// Credentials that servers from 4.0 on do not know.
const OLD_CREDENTIALS: &str = "MONGODB-CR";

/// What this migration has made on the target, with the fingerprints that each may have: while a change is on its way there are two.
pub(crate) type Made = BTreeMap<AccountName, Vec<Fingerprint>>;

/// What is known of both sides.
pub(crate) struct Known<'a> {
    /// All users and roles of the source.
    pub source: &'a Accounts,
    /// Those of the target that [`Known::names`] asks for.
    pub target: &'a Accounts,
    pub made: &'a Made,
    pub users: &'a UserSelection,
    /// Users and roles of the migration that this one takes back. They are not carried either.
    pub never: &'a [AccountName],
    /// The collections that are migrated, and their new names.
    pub selection: &'a Selection,
}

/// What is to be done, and what is not.
#[derive(Debug, Default)]
pub(crate) struct UsersPlan {
    /// What the target is to have, exactly so.
    pub wanted: Vec<Account>,
    /// The same with fingerprints of what the source has, where a role may name other collections.
    pub on_source: Made,
    /// What of that it does not have yet, or in another form.
    pub put: Vec<Account>,
    /// What the migration has made and the source no longer has.
    pub drop: Vec<AccountName>,
    /// What the migration has made and is no longer its own.
    pub forget: Vec<AccountName>,
    /// What the target keeps with other content than the source's.
    pub kept: Vec<AccountName>,
    /// What other programs have made on the target and [`ExistingUsers::Refuse`] protects.
    pub conflicts: Vec<AccountName>,
    /// What other programs have made on the target and is replaced.
    pub replaced: Vec<AccountName>,
    pub left_out: Vec<(AccountName, LeftOutReason)>,
    /// Roles that carried users and roles have and that will not exist on the target.
    pub missing_roles: BTreeSet<AccountName>,
    /// Roles with actions that the target does not know, with these actions. [`find_unknown_actions`](Self::find_unknown_actions) fills it.
    pub unknown_actions: Vec<(AccountName, Vec<String>)>,
    /// Roles with privileges that cover a renamed collection, with the resources that stay as they are.
    pub unmapped: Vec<(AccountName, Vec<String>)>,
    /// Users for whom the target has no mechanism.
    pub without_mechanism: Vec<AccountName>,
    /// Users whose credentials are kept elsewhere.
    pub external: Vec<AccountName>,
    /// Whether the target has a mechanism for such users, as far as known.
    pub checks_external: bool,
}

/// Why a user or role is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOutReason {
    /// The host has excluded it.
    Excluded,
    /// The migration itself connects as this user, or with this role; or the one did that it takes back.
    OfMigration,
    /// It has credentials of a kind that no supported server knows.
    UnknownCredentials,
}

impl LeftOutReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Excluded => "excluded",
            Self::OfMigration => "used by the migration",
            Self::UnknownCredentials => "its only credentials are MONGODB-CR, which servers from 4.0 on do not know",
        }
    }
}

impl Known<'_> {
    /// The names to look for on the target: what may be carried, what was made, and the roles that the former have.
    pub fn names(source: &Accounts, users: &UserSelection, made: &Made) -> BTreeSet<AccountName> {
        let mut names: BTreeSet<AccountName> = made.keys().cloned().collect();
        for account in source.accounts.iter().filter(|account| users.contains(account.name())) {
            names.insert(account.name().clone());
            names.extend(roles_of(account));
        }
        names
    }

    /// Decides about each user and role.
    pub fn plan(&self) -> UsersPlan {
        let is_external = |mechanism: &String| !mechanism.starts_with("SCRAM-");
        let mechanisms = self.target.mechanisms.as_ref();
        let mut plan = UsersPlan {
            checks_external: mechanisms.is_none_or(|known| known.iter().any(is_external)),
            ..UsersPlan::default()
        };
        let (on_source, standing) = (by_name(&self.source.accounts), by_name(&self.target.accounts));
        for (&name, &account) in on_source.iter().filter(|(name, _)| self.users.reaches(name)) {
            if let Some(reason) = self.reason_against(account) {
                plan.left_out.push((name.clone(), reason));
                continue;
            }
            let mapped = mapping::map(account, self.selection);
            if !mapped.unmapped.is_empty() {
                plan.unmapped.push((name.clone(), mapped.unmapped));
            }
            let account = mapped.account;
            match standing.get(name) {
                None => plan.put.push(account.clone()),
                Some(there) if is_same(there, &account) => {}
                Some(there) if self.is_made(there) => plan.put.push(account.clone()),
                Some(_) => match self.users.if_existing() {
                    ExistingUsers::Refuse => {
                        plan.conflicts.push(name.clone());
                        continue;
                    }
                    ExistingUsers::Keep => {
                        plan.kept.push(name.clone());
                        continue;
                    }
                    ExistingUsers::Replace => {
                        plan.replaced.push(name.clone());
                        plan.put.push(account.clone());
                    }
                },
            }
            self.examine(&account, &mut plan);
            plan.on_source.insert(name.clone(), vec![fingerprint(on_source[name])]);
            plan.wanted.push(account);
        }
        self.what_is_gone(&on_source, &standing, &mut plan);
        self.find_missing_roles(&standing, &mut plan);
        plan
    }

    /// What the way back has to know, once the plan is carried out.
    pub fn at_hand_over(&self, plan: &UsersPlan) -> UsersAtHandOver {
        let readers = self.source.own.iter().filter(|name| name.kind == AccountKind::User);
        let own: BTreeSet<&AccountName> = readers.chain(&self.target.own).chain(self.never).collect();
        UsersAtHandOver {
            selection: self.users.clone(),
            known: KnownName::all(&plan.on_source),
            own: own.into_iter().cloned().collect(),
        }
    }

    fn reason_against(&self, account: &Account) -> Option<LeftOutReason> {
        let name = account.name();
        let is_reader = self.source.own.contains(name) && name.kind == AccountKind::User;
        if is_reader || self.target.own.contains(name) || self.never.contains(name) {
            return Some(LeftOutReason::OfMigration);
        }
        if self.users.excludes(name) {
            return Some(LeftOutReason::Excluded);
        }
        let mechanisms = mechanisms_of(account);
        let is_old = !mechanisms.is_empty() && mechanisms.iter().all(|mechanism| mechanism == OLD_CREDENTIALS);
        is_old.then_some(LeftOutReason::UnknownCredentials)
    }

    /// Whether the migration has made exactly this.
    fn is_made(&self, there: &Account) -> bool {
        let prints = self.made.get(there.name());
        prints.is_some_and(|prints| prints.contains(&fingerprint(there)))
    }

    /// Decides about what was made for users and roles that the source no longer has.
    fn what_is_gone(&self, on_source: &AccountsByName<'_>, standing: &AccountsByName<'_>, plan: &mut UsersPlan) {
        for name in self.made.keys() {
            if on_source.contains_key(name)
                || !self.users.contains(name)
                || self.target.own.contains(name)
                || self.never.contains(name)
            {
                continue;
            }
            match standing.get(name) {
                Some(there) if self.is_made(there) => plan.drop.push(name.clone()),
                Some(_) => {
                    plan.kept.push(name.clone());
                    plan.forget.push(name.clone());
                }
                None => plan.forget.push(name.clone()),
            }
        }
    }

    /// Notes what may not work on the target as it does on the source.
    fn examine(&self, account: &Account, plan: &mut UsersPlan) {
        let name = account.name();
        if name.database == EXTERNAL {
            plan.external.push(name.clone());
        } else if name.kind == AccountKind::User
            && let Some(known) = &self.target.mechanisms
        {
            let mechanisms = mechanisms_of(account);
            if !mechanisms.is_empty() && !mechanisms.iter().any(|mechanism| known.contains(mechanism)) {
                plan.without_mechanism.push(name.clone());
            }
        }
    }

    fn find_missing_roles(&self, standing: &AccountsByName<'_>, plan: &mut UsersPlan) {
        let Some(built_in) = &self.target.built_in_roles else {
            return;
        };
        let wanted: BTreeSet<&AccountName> = plan.wanted.iter().map(Account::name).collect();
        let dropped: BTreeSet<&AccountName> = plan.drop.iter().collect();
        let exists = |role: &AccountName| {
            built_in.contains(&role.name)
                || wanted.contains(role)
                || (standing.contains_key(role) && !dropped.contains(role))
                || self.target.own.contains(role)
        };
        let missing = plan.wanted.iter().flat_map(roles_of).filter(|role| !exists(role));
        plan.missing_roles = missing.collect();
    }
}

impl UsersPlan {
    /// The actions in the privileges of all roles that are wanted.
    pub fn actions(&self) -> BTreeSet<String> {
        self.wanted.iter().flat_map(actions_of).collect()
    }

    /// Notes the roles that have actions of which the target has said that it does not know them.
    pub fn find_unknown_actions(&mut self, unknown: &BTreeSet<String>) {
        for account in &self.wanted {
            let actions: BTreeSet<String> = actions_of(account).filter(|action| unknown.contains(action)).collect();
            if !actions.is_empty() {
                let actions = actions.into_iter().collect();
                self.unknown_actions.push((account.name().clone(), actions));
            }
        }
    }
}

type AccountsByName<'a> = BTreeMap<&'a AccountName, &'a Account>;

fn by_name(accounts: &[Account]) -> AccountsByName<'_> {
    accounts.iter().map(|account| (account.name(), account)).collect()
}

/// The roles that a user or role has directly.
fn roles_of(account: &Account) -> Vec<AccountName> {
    let Ok(listed) = account.document().get_array("roles") else {
        return Vec::new();
    };
    let role = |value: RawBsonRef<'_>| {
        let role = value.as_document()?;
        Some(AccountName::role(role.get_str("role").ok()?, role.get_str("db").ok()?))
    };
    listed.into_iter().flatten().filter_map(role).collect()
}

/// The names of a user's credentials.
fn mechanisms_of(account: &Account) -> Vec<String> {
    let Ok(credentials) = account.document().get_document("credentials") else {
        return Vec::new();
    };
    let names = credentials.iter().flatten().map(|(name, _)| name.as_str().to_owned());
    names.collect()
}

fn actions_of(account: &Account) -> impl Iterator<Item = String> {
    let privileges = account.document().get_array("privileges").ok();
    let actions = |privilege: RawBsonRef<'_>| -> Vec<String> {
        let listed = privilege.as_document().and_then(|one| one.get_array("actions").ok());
        let named = listed.into_iter().flatten().flatten();
        named.filter_map(|action| action.as_str().map(str::to_owned)).collect()
    };
    privileges.into_iter().flatten().flatten().flat_map(actions)
}

#[cfg(test)]
mod tests {
    use bson::{RawArrayBuf, rawdoc};

    use super::*;

    fn user_with(name: &str, salt: &str, roles: &[&str]) -> Account {
        let mut listed = RawArrayBuf::new();
        for role in roles {
            listed.push(rawdoc! { "role": *role, "db": "admin" });
        }
        let credentials = rawdoc! { "SCRAM-SHA-1": { "iterationCount": 10_000, "salt": salt, "storedKey": salt } };
        let document = rawdoc! { "user": name, "db": "shop", "credentials": credentials, "roles": listed };
        Account::new(AccountKind::User, document).unwrap()
    }

    fn user(name: &str, salt: &str) -> Account {
        user_with(name, salt, &[])
    }

    fn name(text: &str) -> AccountName {
        AccountName::user(text, "shop")
    }

    fn names(accounts: &[Account]) -> Vec<&str> {
        accounts.iter().map(|account| account.name().name.as_str()).collect()
    }

    struct Case {
        source: Accounts,
        target: Accounts,
        made: Made,
        users: UserSelection,
        never: Vec<AccountName>,
    }

    impl Case {
        fn of(source: Vec<Account>, target: Vec<Account>) -> Self {
            Self {
                source: Accounts::new(source),
                target: Accounts::new(target),
                made: Made::new(),
                users: UserSelection::all(),
                never: Vec::new(),
            }
        }

        fn made(mut self, accounts: &[Account]) -> Self {
            for account in accounts {
                let prints = self.made.entry(account.name().clone()).or_default();
                prints.push(fingerprint(account));
            }
            self
        }

        fn plan(&self) -> UsersPlan {
            self.known(&Selection::all()).plan()
        }

        fn known<'a>(&'a self, selection: &'a Selection) -> Known<'a> {
            Known {
                source: &self.source,
                target: &self.target,
                made: &self.made,
                users: &self.users,
                never: &self.never,
                selection,
            }
        }
    }

    #[test]
    fn what_is_missing_is_put_and_what_is_equal_is_left() {
        let plan = Case::of(vec![user("b", "1"), user("a", "1")], vec![user("a", "1")]).plan();
        assert_eq!(names(&plan.wanted), ["a", "b"]);
        assert_eq!(names(&plan.put), ["b"]);
        assert!(plan.conflicts.is_empty() && plan.drop.is_empty() && plan.kept.is_empty());
    }

    #[test]
    fn existing_ones_are_refused_kept_or_replaced() {
        let mut case = Case::of(vec![user("a", "1")], vec![user("a", "2")]);
        let plan = case.plan();
        assert_eq!(
            (plan.conflicts, plan.put.len(), plan.wanted.len()),
            (vec![name("a")], 0, 0)
        );
        case.users = case.users.existing(ExistingUsers::Keep);
        let plan = case.plan();
        assert_eq!((plan.kept, plan.put.len(), plan.wanted.len()), (vec![name("a")], 0, 0));
        case.users = case.users.existing(ExistingUsers::Replace);
        let plan = case.plan();
        assert_eq!((plan.replaced, names(&plan.put)), (vec![name("a")], vec!["a"]));
    }

    #[test]
    fn what_was_made_follows_the_source_until_others_change_it() {
        let made = [user("a", "1")];
        let changed = Case::of(vec![user("a", "2")], vec![user("a", "1")]).made(&made).plan();
        assert_eq!(names(&changed.put), ["a"]);
        assert!(changed.conflicts.is_empty());
        let by_others = Case::of(vec![user("a", "2")], vec![user("a", "3")]).made(&made).plan();
        assert_eq!(by_others.conflicts, [name("a")]);
        // A change was on its way when the process was killed.
        let both = [user("a", "1"), user("a", "2")];
        for there in &both {
            let case = Case::of(vec![user("a", "3")], vec![there.clone()]).made(&both);
            assert_eq!(names(&case.plan().put), ["a"]);
        }
    }

    #[test]
    fn only_what_was_made_and_not_changed_is_dropped() {
        let made = [user("a", "1")];
        let gone = Case::of(vec![], vec![user("a", "1")]).made(&made).plan();
        assert_eq!((gone.drop, gone.forget), (vec![name("a")], vec![]));
        let changed = Case::of(vec![], vec![user("a", "2")]).made(&made).plan();
        assert_eq!(
            (changed.drop, changed.forget, changed.kept),
            (vec![], vec![name("a")], vec![name("a")])
        );
        let already = Case::of(vec![], vec![]).made(&made).plan();
        assert_eq!((already.drop, already.forget), (vec![], vec![name("a")]));
        let foreign = Case::of(vec![], vec![user("a", "1")]).plan();
        assert!(foreign.drop.is_empty() && foreign.forget.is_empty());
        let mut excluded = Case::of(vec![], vec![user("a", "1")]).made(&made);
        excluded.users = UserSelection::all().exclude("a", "shop");
        assert!(excluded.plan().drop.is_empty());
    }

    #[test]
    fn the_migrations_own_users_are_left_out_on_both_sides() {
        let mut case = Case::of(
            vec![user("a", "1"), user("b", "1"), user("c", "1")],
            vec![user("b", "2")],
        );
        case.source.own.insert(name("a"));
        case.target.own.insert(name("b"));
        case.users = UserSelection::all().existing(ExistingUsers::Replace);
        let plan = case.plan();
        assert_eq!(names(&plan.wanted), ["c"]);
        let own = LeftOutReason::OfMigration;
        assert_eq!(plan.left_out, [(name("a"), own), (name("b"), own)]);
        let gone = Case {
            target: case.target,
            ..Case::of(vec![], vec![])
        };
        assert!(gone.made(&[user("b", "2")]).plan().drop.is_empty());
    }

    #[test]
    fn the_way_back_knows_what_was_carried_and_whose_users_are_left() {
        let mut case = Case::of(
            vec![user("a", "1"), user("b", "1"), user("c", "1")],
            vec![user("a", "1")],
        );
        case.source.own.insert(name("b"));
        case.target.own.insert(AccountName::role("r", "admin"));
        case.never.push(name("c"));
        let selection = Selection::all();
        let known = case.known(&selection);
        let plan = known.plan();
        assert_eq!(names(&plan.wanted), ["a"]);
        let back = known.at_hand_over(&plan);
        assert_eq!(back.own, [AccountName::role("r", "admin"), name("b"), name("c")]);
        // It has changed on the new set, and another one is gone; both are known on the old one.
        let mut opposite = Case::of(
            vec![user("a", "2"), user("b", "9")],
            vec![user("a", "1"), user("b", "1")],
        );
        (opposite.made, opposite.never) = (back.made(), back.own);
        let plan = opposite.plan();
        assert_eq!((names(&plan.put), plan.conflicts.len()), (vec!["a"], 0));
        assert_eq!(plan.left_out, [(name("b"), LeftOutReason::OfMigration)]);
        opposite.source.accounts.clear();
        assert_eq!(opposite.plan().drop, [name("a")]);
    }

    #[test]
    fn a_role_is_known_by_the_names_of_its_side() {
        let privilege = rawdoc! { "resource": { "db": "shop", "collection": "items" }, "actions": ["find"] };
        let mut privileges = RawArrayBuf::new();
        privileges.push(privilege);
        let role = rawdoc! { "role": "r", "db": "admin", "privileges": privileges, "roles": [] };
        let role = Account::new(AccountKind::Role, role).unwrap();
        let mut selection = Selection::all();
        selection.rename("shop.items", "shop.parts").unwrap();
        let case = Case::of(vec![role.clone()], vec![]);
        let known = case.known(&selection);
        let plan = known.plan();
        assert_ne!(plan.wanted[0], role);
        assert_eq!(known.at_hand_over(&plan).known[0].prints, [fingerprint(&role)]);
        // What was carried is mapped back to the same.
        let mut opposite = Case::of(plan.wanted, vec![role]);
        opposite.made = known.at_hand_over(&case.known(&selection).plan()).made();
        let selection = selection.reversed();
        assert!(opposite.known(&selection).plan().put.is_empty());
    }

    #[test]
    fn what_the_target_does_not_know_is_found() {
        let old = rawdoc! { "user": "old", "db": "shop", "credentials": { "MONGODB-CR": "x" }, "roles": [] };
        let old = Account::new(AccountKind::User, old).unwrap();
        let external = rawdoc! { "user": "CN=x", "db": "$external", "credentials": { "external": true }, "roles": [] };
        let external = Account::new(AccountKind::User, external).unwrap();
        let role = rawdoc! {
            "role": "r", "db": "admin", "roles": [{ "role": "gone", "db": "admin" }],
            "privileges": [{ "resource": { "cluster": true }, "actions": ["find", "flyToTheMoon"] }],
        };
        let role = Account::new(AccountKind::Role, role).unwrap();
        let app = user_with("app", "1", &["r", "read"]);
        let mut case = Case::of(vec![old, external, role, app], vec![]);
        let plan = case.plan();
        assert_eq!(plan.left_out, [(name("old"), LeftOutReason::UnknownCredentials)]);
        assert_eq!(plan.external, [AccountName::user("CN=x", "$external")]);
        assert!(plan.missing_roles.is_empty() && plan.unknown_actions.is_empty() && plan.without_mechanism.is_empty());
        let set = |all: &[&str]| Some(all.iter().map(|&one| one.to_owned()).collect());
        case.target.mechanisms = set(&["SCRAM-SHA-256"]);
        case.target.built_in_roles = set(&["read"]);
        let mut plan = case.plan();
        assert_eq!(plan.actions(), ["find", "flyToTheMoon"].map(str::to_owned).into());
        plan.find_unknown_actions(&["flyToTheMoon".to_owned()].into());
        assert_eq!(plan.without_mechanism, [name("app")]);
        assert_eq!(plan.missing_roles, BTreeSet::from([AccountName::role("gone", "admin")]));
        assert_eq!(
            plan.unknown_actions,
            [(AccountName::role("r", "admin"), vec!["flyToTheMoon".to_owned()])]
        );
        assert_eq!(
            names(&plan.wanted),
            ["r", "CN=x", "app"],
            "they are carried nevertheless"
        );
    }
}
