//! Rules for users and roles that are carried to the target.

use super::Context;
use super::facts::{ASKED, SideFacts, asked};
use super::grant::Grant;
use super::privilege::{Lack, is_allowed_on};
use crate::config::Settings;
use crate::error::{ErrorKind, Finding, FindingCode, Result, Severity};
use crate::model::{AccountName, Accounts, Side, joined};
use crate::report::UsersSummary;
use crate::runtime::job::Job;
use crate::users::{ExistingUsers, Known, LeftOutReason, Made, UsersPlan};

const READ: &str = "read users and roles";
const ASK_ACTIONS: &str = "ask which actions roles can have";

/// Actions that the target's user needs on all ordinary collections of all databases.
const ACTIONS: &[&str] = &[
    "createUser",
    "createRole",
    "dropUser",
    "dropRole",
    "grantRole",
    "revokeRole",
    "setAuthenticationRestriction",
    "viewRole",
];

/// What is known of users and roles before a start.
pub(super) enum UsersOutlook {
    /// None are to be carried.
    None,
    /// A side cannot carry them, for this reason.
    Unsupported(String),
    /// A side refused to list them, as it said.
    Unlisted(Side, String),
    Plan(Box<UsersPlan>),
}

impl UsersOutlook {
    /// What would be carried and what not, as far as known.
    pub fn summary(&self) -> Option<UsersSummary> {
        match self {
            Self::Plan(plan) => Some(plan.summary()),
            _ => None,
        }
    }
}

/// Reads users and roles of both sides.
///
/// # Errors
/// A server error.
pub(super) async fn look(engine: &Job, made: &Made) -> Result<UsersOutlook> {
    let settings = &engine.settings;
    let Some(users) = settings.users.selection() else {
        return Ok(UsersOutlook::None);
    };
    let read = asked(engine, Side::Source, READ, Some(ASKED), engine.source.accounts());
    let source = match listed(Side::Source, read.await) {
        Ok(source) => source,
        Err(outlook) => return outlook,
    };
    let names = Known::names(&source, users, made);
    let read = asked(engine, Side::Target, READ, Some(ASKED), engine.sink.accounts(&names));
    let target = match listed(Side::Target, read.await) {
        Ok(target) => target,
        Err(outlook) => return outlook,
    };
    let known = Known {
        source: &source,
        target: &target,
        made,
        users,
        never: settings.never_carried(),
        selection: &settings.selection,
    };
    let mut plan = known.plan();
    let actions = plan.actions();
    if !actions.is_empty() {
        let ask = engine.sink.unknown_actions(&actions);
        let unknown = asked(engine, Side::Target, ASK_ACTIONS, Some(ASKED), ask).await?;
        plan.find_unknown_actions(&unknown.unwrap_or_default());
    }
    Ok(UsersOutlook::Plan(Box::new(plan)))
}

fn listed(side: Side, read: Result<Accounts>) -> Result<Accounts, Result<UsersOutlook>> {
    read.map_err(|error| match error.kind() {
        ErrorKind::Unauthorized => Ok(UsersOutlook::Unlisted(side, error.report())),
        ErrorKind::Refused => Ok(UsersOutlook::Unsupported(error.message().to_owned())),
        _ => Err(error),
    })
}

/// Returns what a side's user lacks to carry users.
pub(super) fn missing_privileges(settings: &Settings, side: &SideFacts) -> Option<Lack> {
    settings.users.selection()?;
    let privileges = side.inspection.privileges.as_deref()?;
    let mut grants = Vec::new();
    let collections: &[&str] = match side.side {
        Side::Source => &["system.users", "system.roles"],
        Side::Target => &["system.users"],
    };
    for collection in collections {
        if !is_allowed_on(privileges, "admin", collection, "find") {
            grants.push(Grant::on_collection("admin", collection, &["find"]));
        }
    }
    if side.side == Side::Target {
        let missing = ACTIONS
            .iter()
            .filter(|action| !is_allowed_on(privileges, "", "", action));
        let missing: Vec<&str> = missing.copied().collect();
        if !missing.is_empty() {
            grants.push(Grant::on_collection("", "", &missing));
        }
    }
    if grants.is_empty() {
        return None;
    }
    let (role, what) = match side.side {
        Side::Source => ("backup", "read users and roles"),
        Side::Target => ("restore", "make users and roles"),
    };
    Some(Lack {
        severity: Severity::Blocker,
        message: format!(
            "the user on the {} lacks privileges to {what}, which the role `{role}` has",
            side.name
        ),
        affected: Vec::new(),
        grants,
    })
}

/// Reports what cannot be carried, what would not work on the target, and what is in the way.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    match context.users {
        UsersOutlook::None => {}
        UsersOutlook::Unsupported(reason) => findings.push(Finding::blocker(
            FindingCode::UsersUnsupported,
            format!("users and roles are to be carried, and that is not possible: {reason}"),
            "start with `.users(Users::None)`, and make users and roles on the target yourself",
        )),
        UsersOutlook::Unlisted(side, refusal) => {
            let facts = match side {
                Side::Source => context.source,
                Side::Target => context.target,
            };
            // Otherwise the rule for privileges reports it, with the command that grants what is missing.
            if missing_privileges(context.settings, facts).is_none() {
                findings.push(Finding::blocker(
                    FindingCode::MissingPrivilege,
                    format!("users and roles of the {} cannot be read: {refusal}", facts.name),
                    "grant the user the role `backup` on the source, and the role `restore` on the target",
                ));
            }
        }
        UsersOutlook::Plan(plan) => of_plan(context, plan, findings),
    }
}

fn of_plan(context: &Context<'_>, plan: &UsersPlan, findings: &mut Vec<Finding>) {
    existing(context, plan, findings);
    let old = plan.left_out.iter();
    let old = old.filter(|(_, reason)| *reason == LeftOutReason::UnknownCredentials);
    report(
        findings,
        old.map(|(name, _)| name),
        Severity::Warning,
        FindingCode::UserCredentialsOld,
        "users have no credentials but MONGODB-CR, which servers from 4.0 on do not know; they are not carried",
        "let them change their passwords on the source, or create them on the target",
    );
    report(
        findings,
        plan.without_mechanism.iter(),
        Severity::Warning,
        FindingCode::UserMechanismOff,
        "users have credentials for no mechanism that the target accepts; they are carried and cannot log in there",
        "let them change their passwords on the source, or enable their mechanism on the target (`authenticationMechanisms`)",
    );
    report(
        findings,
        plan.external.iter(),
        match plan.checks_external {
            true => Severity::Note,
            false => Severity::Warning,
        },
        FindingCode::UserExternal,
        "users of `$external` are carried without credentials, which are kept elsewhere",
        "configure the target to check them as the source does, such as by the same certificate authority",
    );
    report(
        findings,
        plan.missing_roles.iter(),
        Severity::Warning,
        FindingCode::RoleMissing,
        "carried users or roles have roles that are neither carried nor on the target; there they have no effect",
        "select the databases of these roles, or create them on the target",
    );
    for (name, actions) in &plan.unknown_actions {
        let message = format!(
            "the {name} has privileges with actions that the target does not know, and would be refused there: {}",
            actions.join(", ")
        );
        let fix = format!(
            "revoke these actions from the role on the source, or leave it out with `.exclude({:?}, {:?})`",
            name.name, name.database
        );
        let finding = Finding::blocker(FindingCode::RoleActionUnknown, message, fix);
        findings.push(finding.listing(vec![name.to_string()]));
    }
    for (name, resources) in &plan.unmapped {
        let message = format!(
            "the {name} has privileges that cover renamed collections and keep their names: on {}",
            resources.join(", ")
        );
        let fix = "grant the role what it needs on the new names, on the target after the cutover";
        let finding = Finding::warning(FindingCode::RoleRenamed, message, fix);
        findings.push(finding.listing(vec![name.to_string()]));
    }
}

fn existing(context: &Context<'_>, plan: &UsersPlan, findings: &mut Vec<Finding>) {
    let Some(users) = context.settings.users.selection() else {
        return;
    };
    let (severity, names, what) = match users.if_existing() {
        ExistingUsers::Refuse => (Severity::Blocker, &plan.conflicts, "are in the way"),
        ExistingUsers::Keep => (Severity::Warning, &plan.kept, "stay as they are"),
        ExistingUsers::Replace => (Severity::Warning, &plan.replaced, "will be replaced"),
    };
    report(
        findings,
        names.iter(),
        severity,
        FindingCode::UsersExisting,
        &format!("the target has users or roles of the same names with other content; they {what}"),
        "drop them on the target, exclude them, or choose another `ExistingUsers`",
    );
}

fn report<'a>(
    findings: &mut Vec<Finding>,
    names: impl Iterator<Item = &'a AccountName>,
    severity: Severity,
    code: FindingCode,
    what: &str,
    fix: &str,
) {
    let names: Vec<String> = names.map(ToString::to_string).collect();
    if names.is_empty() {
        return;
    }
    let message = format!("{what}: {}", joined(&names, SHOWN));
    findings.push(Finding::new(severity, code, message, fix).listing(names));
}

/// Maximum number of names in a message. The finding lists more.
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::preflight::fixture::{Facts, codes, findings};
    use crate::users::{UserSelection, Users};

    fn facts(existing: ExistingUsers, plan: UsersPlan) -> Facts {
        let mut facts = Facts::new();
        facts.settings.users = Users::Carry(UserSelection::all().existing(existing));
        facts.users = UsersOutlook::Plan(Box::new(plan));
        facts
    }

    #[test]
    fn each_problem_has_a_code_and_names_who_has_it() {
        let app = || AccountName::user("app", "shop");
        let plan = UsersPlan {
            conflicts: vec![app()],
            left_out: vec![
                (app(), LeftOutReason::UnknownCredentials),
                (app(), LeftOutReason::Excluded),
            ],
            missing_roles: [AccountName::role("gone", "admin")].into(),
            unknown_actions: vec![(AccountName::role("r", "admin"), vec!["flyToTheMoon".to_owned()])],
            unmapped: vec![(
                AccountName::role("r", "admin"),
                vec!["`orders` in everything".to_owned()],
            )],
            without_mechanism: vec![app()],
            external: vec![AccountName::user("CN=x", "$external")],
            ..UsersPlan::default()
        };
        let found = findings(&facts(ExistingUsers::Refuse, plan), check);
        let expected = [
            ("users_existing", Severity::Blocker, "app@shop"),
            ("user_credentials_old", Severity::Warning, "app@shop"),
            ("user_mechanism_off", Severity::Warning, "app@shop"),
            ("user_external", Severity::Warning, "CN=x@$external"),
            ("role_missing", Severity::Warning, "gone@admin"),
            ("role_action_unknown", Severity::Blocker, "flyToTheMoon"),
            ("role_renamed", Severity::Warning, "`orders` in everything"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (code, severity, text)) in found.iter().zip(expected) {
            assert_eq!((found.code.as_str(), found.severity), (code, severity));
            assert!(found.message.contains(text) && found.affected.len() == 1, "{found}");
        }
    }

    #[test]
    fn existing_ones_block_only_if_the_host_says_so() {
        let name = || vec![AccountName::user("app", "shop")];
        let kept = UsersPlan {
            kept: name(),
            ..UsersPlan::default()
        };
        let replaced = UsersPlan {
            replaced: name(),
            ..UsersPlan::default()
        };
        for (existing, plan, text) in [
            (ExistingUsers::Keep, kept, "stay as they are"),
            (ExistingUsers::Replace, replaced, "will be replaced"),
        ] {
            let found = findings(&facts(existing, plan), check);
            assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
            assert!(found[0].message.contains(text), "{}", found[0]);
        }
    }

    #[test]
    fn privileges_are_missed_only_if_users_are_carried() {
        let mut facts = Facts::new();
        let privileges = |resource, actions: &[&str]| doc! { "resource": resource, "actions": actions };
        facts.source.inspection.privileges = Some(Vec::new());
        assert!(missing_privileges(&facts.settings, &facts.source).is_none());
        facts.settings.users = Users::Carry(UserSelection::all());
        let lack = missing_privileges(&facts.settings, &facts.source).unwrap();
        assert_eq!((lack.grants.len(), lack.severity), (2, Severity::Blocker));
        facts.target.inspection.privileges = Some(Vec::new());
        let lack = missing_privileges(&facts.settings, &facts.target).unwrap();
        assert!(lack.message.contains("`restore`") && lack.grants.len() == 2);
        let users = doc! { "db": "", "collection": "system.users" };
        let enough = vec![
            privileges(users, &["find"]),
            privileges(doc! { "db": "", "collection": "" }, ACTIONS),
        ];
        facts.target.inspection.privileges = Some(enough);
        assert!(missing_privileges(&facts.settings, &facts.target).is_none());
    }

    #[test]
    fn a_side_without_users_is_refused() {
        let mut facts = Facts::new();
        assert_eq!(codes(&facts, check), [""; 0]);
        facts.users = UsersOutlook::Unsupported("this sink cannot do that".to_owned());
        assert_eq!(codes(&facts, check), ["users_unsupported"]);
        facts.settings.users = Users::Carry(UserSelection::all());
        facts.users = UsersOutlook::Unlisted(Side::Source, "not authorized".to_owned());
        assert_eq!(codes(&facts, check), ["missing_privilege"]);
        // The rule for privileges reports it.
        facts.source.inspection.privileges = Some(Vec::new());
        assert_eq!(codes(&facts, check), [""; 0]);
    }
}
