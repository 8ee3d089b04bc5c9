//! What has to be done so that the target has the source's users and roles.

#[cfg(test)]
mod tests;

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
