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
