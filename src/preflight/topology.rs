//! Rules for the members of both sets.

use super::{Context, SideFacts};
use crate::error::{Finding, FindingCode, Severity};
use crate::model::Member;
use crate::mongo::client::number;

/// Checks the members and the connection of both sides.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    if context.source.deployment.identity == context.target.deployment.identity {
        findings.push(Finding::blocker(
            FindingCode::SameDeployment,
            format!(
                "source and target are the same replica set `{}`",
                context.source.deployment.name
            ),
            "use the connection string of another replica set as the target",
        ));
    }
    for side in context.sides() {
        members(side, findings);
        reached(side, findings);
    }
    default_write_concern(context.target, findings);
    if let Some(preference) = &context.source.inspection.connection.read_preference {
        findings.push(Finding::note(
            FindingCode::ReadPreference,
            format!("the source's connection string asks for the read preference `{preference}`; it is ignored, all reads go to the primary"),
            "remove `readPreference` from the connection string",
        ));
    }
}

fn members(side: &SideFacts, findings: &mut Vec<Finding>) {
    let members = &side.inspection.members;
    for member in members.iter().filter(|member| !is_up(member)) {
        findings.push(Finding::warning(
            FindingCode::MemberUnhealthy,
            format!("the member {} of the {} is in the state {}", member.host, side.name, member.state),
            format!(
                "bring it back, or take it out of the set with `rs.remove(\"{}\")`; `rs.status()` and its log show what it is doing",
                member.host
            ),
        ));
    }
    let votes = Votes::of(members);
    if votes.up < votes.majority {
        findings.push(Finding::blocker(
            FindingCode::NoMajority,
            format!(
                "of the {} votes of the {}, only {} belong to data-bearing members that are up; a majority needs {}",
                votes.all, side.name, votes.up, votes.majority
            ),
            "start the members that are down, or replace arbiters by data-bearing members: `rs.remove(\"HOST\")`, `rs.add(\"HOST\")`",
        ));
    } else if votes.prompt < votes.majority {
        findings.push(Finding::new(
            // A run waits for the target's majority again and again.
            side.severity(Severity::Warning, Severity::Blocker),
            FindingCode::DelayedMajority,
            format!(
                "a majority of the {} includes delayed members, so everything that a majority has to confirm is delayed as well",
                side.name
            ),
            "remove the votes of the delayed members for the time of the migration: `cfg = rs.conf(); cfg.members[N].votes = 0; \
             cfg.members[N].priority = 0; rs.reconfig(cfg)`",
        ));
    }
    let unused: Vec<String> = members
        .iter()
        .filter(|member| member.hidden || !member.delay.is_zero())
        .map(|member| match member.delay.as_secs() {
            0 => format!("{} (hidden)", member.host),
            seconds => format!("{} ({seconds} s behind)", member.host),
        })
        .collect();
    if !unused.is_empty() {
        findings.push(Finding::note(
            FindingCode::UnusedMember,
            format!(
                "the {} has hidden or delayed members, which are neither read nor written: {}",
                side.name,
                unused.join(", ")
            ),
            "no action is needed",
        ));
    }
}

/// Checks that the applications will get answers to their writes. The migration's own writes do not depend on the default.
fn default_write_concern(target: &SideFacts, findings: &mut Vec<Finding>) {
    let inspection = &target.inspection;
    let Some(wanted) = inspection
        .default_write_concern
        .as_ref()
        .map(|concern| number(concern, "w"))
    else {
        return;
    };
    let members = &inspection.members;
    let up = members.iter().filter(|member| !member.arbiter && is_up(member)).count() as u64;
    if !members.is_empty() && wanted > up {
        findings.push(Finding::warning(
            FindingCode::DefaultWriteConcern,
            format!(
                "by default a write to the target waits for {wanted} members with data, of which {up} are up: application writes \
                 without a write concern of their own get no answer"
            ),
            "start the members that are down, or on the target: `db.adminCommand({ setDefaultRWConcern: 1, defaultWriteConcern: { w: \
             \"majority\" } })` (before 5.0 `settings.getLastErrorDefaults` of `rs.conf()`)",
        ));
    }
}

/// Whether a majority confirms writes without delay. Returns `true` if nothing is known of the members.
pub(super) fn has_prompt_majority(side: &SideFacts) -> bool {
    let votes = Votes::of(&side.inspection.members);
    votes.prompt >= votes.majority
}

/// Votes of a set.
struct Votes {
    all: usize,
    /// Number of votes that make a majority.
    majority: usize,
    /// Votes of members that are up and hold data. Only these make a write durable.
    up: usize,
    /// Votes of those members that are not delayed.
    prompt: usize,
}

impl Votes {
    fn of(members: &[Member]) -> Self {
        let count =
            |fits: &dyn Fn(&Member) -> bool| members.iter().filter(|member| member.votes && fits(member)).count();
        let all = count(&|_| true);
        Self {
            all,
            majority: if all == 0 { 0 } else { all / 2 + 1 },
            up: count(&|member| !member.arbiter && is_up(member)),
            prompt: count(&|member| !member.arbiter && is_up(member) && member.delay.is_zero()),
        }
    }
}

/// Whether a member is up. Without the privilege to query them, states are unknown and count as up.
fn is_up(member: &Member) -> bool {
    matches!(member.state.as_str(), "" | "PRIMARY" | "SECONDARY" | "ARBITER")
}

fn reached(side: &SideFacts, findings: &mut Vec<Finding>) {
    let connection = &side.inspection.connection;
    if !connection.direct {
        return;
    }
    let host = connection.hosts.join(", ");
    let (seen, fix) = if connection.unreachable.is_empty() {
        (
            format!("`directConnection=true` limits the {} to {host}", side.name),
            "remove `directConnection` and name the set with `replicaSet`".to_owned(),
        )
    } else {
        let names = connection.unreachable.join(", ");
        (
            format!(
                "the members of the {} call each other {names}, which cannot be reached from here, so only {host} is connected to",
                side.name
            ),
            format!(
                "make these names resolve here, by DNS or /etc/hosts, and open their ports: {names}; or create the client without \
                 `directConnection`"
            ),
        )
    };
    findings.push(Finding::warning(
        FindingCode::DirectConnection,
        format!("{seen}; the run cannot follow an election, and ends until that member is the primary again"),
        fix,
    ));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bson::{Bson, doc};

    use super::*;
    use crate::preflight::fixture::{Facts, codes};

    fn member(host: &str, state: &str) -> Member {
        Member {
            host: host.to_owned(),
            state: state.to_owned(),
            votes: true,
            ..Member::default()
        }
    }

    #[track_caller]
    fn assert_found(members: Vec<Member>, expected: &[&str]) {
        for on_source in [true, false] {
            let mut facts = Facts::new();
            let side = if on_source {
                &mut facts.source
            } else {
                &mut facts.target
            };
            side.inspection.members = members.clone();
            assert_eq!(codes(&facts, check), expected);
        }
    }

    #[test]
    fn a_healthy_set_and_one_that_nothing_is_known_of_pass() {
        assert_found(Vec::new(), &[]);
        assert_found(vec![member("a", "PRIMARY")], &[]);
        assert_found(
            vec![
                member("a", "PRIMARY"),
                member("b", "SECONDARY"),
                member("c", "SECONDARY"),
            ],
            &[],
        );
        // A user without the privilege for the states knows only the members.
        assert_found(vec![member("a", ""), member("b", ""), member("c", "")], &[]);
    }

    #[test]
    fn a_member_that_is_not_up_is_named() {
        for state in ["RECOVERING", "STARTUP2", "ROLLBACK", "(not reachable/healthy)"] {
            assert_found(
                vec![member("a", "PRIMARY"), member("b", "SECONDARY"), member("c", state)],
                &["member_unhealthy"],
            );
        }
    }

    #[test]
    fn arbiters_make_no_majority() {
        let arbiter = Member {
            arbiter: true,
            ..member("c", "ARBITER")
        };
        assert_found(
            vec![member("a", "PRIMARY"), member("b", "SECONDARY"), arbiter.clone()],
            &[],
        );
        assert_found(
            vec![member("a", "PRIMARY"), member("b", "RECOVERING"), arbiter.clone()],
            &["member_unhealthy", "no_majority"],
        );
        assert_found(vec![member("a", "PRIMARY"), arbiter], &["no_majority"]);
    }

    #[test]
    fn hidden_and_delayed_members_are_understood() {
        let hidden = Member {
            hidden: true,
            ..member("c", "SECONDARY")
        };
        assert_found(
            vec![member("a", "PRIMARY"), member("b", "SECONDARY"), hidden],
            &["unused_member"],
        );
        let delayed = |host: &str| Member {
            delay: Duration::from_secs(3600),
            hidden: true,
            ..member(host, "SECONDARY")
        };
        assert_found(
            vec![member("a", "PRIMARY"), member("b", "SECONDARY"), delayed("c")],
            &["unused_member"],
        );
        assert_found(
            vec![member("a", "PRIMARY"), delayed("b"), delayed("c")],
            &["delayed_majority", "unused_member"],
        );
    }

    #[test]
    fn a_write_concern_that_waits_for_a_dead_member_is_a_warning() {
        let mut facts = Facts::new();
        let down = member("c", "(not reachable/healthy)");
        facts.target.inspection.members = vec![member("a", "PRIMARY"), member("b", "SECONDARY"), down];
        for (w, expected) in [
            (Bson::Int32(2), &["member_unhealthy"] as &[&str]),
            (Bson::Int32(3), &["member_unhealthy", "default_write_concern"]),
            (Bson::String("majority".to_owned()), &["member_unhealthy"]),
        ] {
            facts.target.inspection.default_write_concern = Some(doc! { "w": w });
            assert_eq!(codes(&facts, check), expected);
        }
    }

    #[test]
    fn one_member_talked_to_alone_is_a_warning() {
        let mut facts = Facts::new();
        facts.source.inspection.connection.direct = true;
        assert_eq!(codes(&facts, check), ["direct_connection"]);
        facts.source.inspection.connection.unreachable = vec!["inner:27017".to_owned()];
        let found = crate::preflight::fixture::findings(&facts, check);
        assert!(found[0].message.contains("inner:27017"), "{found:?}");
    }

    #[test]
    fn the_same_set_on_both_sides_is_blocked() {
        let mut facts = Facts::new();
        facts.target.deployment.identity = facts.source.deployment.identity.clone();
        assert_eq!(codes(&facts, check), ["same_deployment"]);
    }

    #[test]
    fn a_read_preference_that_is_not_used_is_noted() {
        let mut facts = Facts::new();
        facts.source.inspection.connection.read_preference = Some("nearest".to_owned());
        assert_eq!(codes(&facts, check), ["read_preference"]);
    }
}
