//! Which entry a majority of a set has, from what is known of its members. Pure.

use bson::{Bson, Document, Timestamp};

use crate::mongo::client::number;
use crate::mongo::legacy::OpTime;

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its number in the set's configuration.
    pub id: u64,
    pub host: String,
    /// Whether it has a vote.
    pub votes: bool,
    /// Whether it is an arbiter, which has no data.
    pub arbiter: bool,
    /// The newest entry it has; `None` if that is unknown, or if it may be rolled back.
    pub reached: Option<OpTime>,
}

/// Who of a set has a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Votes {
    /// The configuration was read.
    Known,
    /// Nobody may read it: hidden members may have votes. All members that are seen must have an entry then, which is at least a majority.
    Unknown,
}

/// The states `PRIMARY` and `SECONDARY`. A member in another state may be about to discard entries.
const PRIMARY: u64 = 1;
const SECONDARY: u64 = 2;
const ARBITER: u64 = 7;

/// Returns the newest entry that enough members have, so that no election can undo it.
///
/// As servers do it: a majority of the votes, or all voting members with data if there are fewer of these than that.
pub(super) fn reached_by_majority(members: &[Member], votes: &Votes) -> Option<OpTime> {
    let voting: Vec<&Member> = members.iter().filter(|member| member.votes).collect();
    let with_data = voting.iter().filter(|member| !member.arbiter);
    let needed = match votes {
        Votes::Known => (voting.len() / 2 + 1).min(with_data.clone().count()),
        Votes::Unknown => with_data.clone().count(),
    };
    let mut reached: Vec<OpTime> = with_data.filter_map(|member| member.reached).collect();
    // The term comes first: what an earlier primary wrote after it was superseded is not in the history of the later one.
    reached.sort_unstable_by_key(|(time, term)| std::cmp::Reverse((*term, *time)));
    reached.get(needed.checked_sub(1)?).copied()
}

/// Returns the members of `replSetGetStatus`. All of them count as voting.
pub(super) fn of_status(status: &Document) -> Vec<Member> {
    documents(status, "members")
        .map(|member| {
            let state = number(member, "state");
            let is_up = matches!(state, PRIMARY | SECONDARY);
            Member {
                id: number(member, "_id"),
                host: member.get_str("name").unwrap_or_default().to_owned(),
                votes: true,
                arbiter: state == ARBITER,
                reached: member.get("optime").filter(|_| is_up).and_then(op_time),
            }
        })
        .collect()
}

/// Returns the members of the set's configuration. Nothing is known of what they have.
pub(super) fn of_configuration(configuration: &Document) -> Vec<Member> {
    documents(configuration, "members")
        .map(|member| Member {
            id: number(member, "_id"),
            host: member.get_str("host").unwrap_or_default().to_owned(),
            // 2.6 and 3.0 leave out what has its default.
            votes: !member.contains_key("votes") || number(member, "votes") > 0,
            arbiter: matches!(member.get("arbiterOnly"), Some(Bson::Boolean(true))),
            reached: None,
        })
        .collect()
}

/// Gives the members of a status the votes of the configuration.
pub(super) fn with_votes(mut members: Vec<Member>, configuration: &[Member]) -> Vec<Member> {
    for member in &mut members {
        if let Some(configured) = configuration.iter().find(|configured| configured.id == member.id) {
            member.votes = configured.votes;
            member.arbiter = configured.arbiter;
        }
    }
    members
}

/// Returns the committed point that `replSetGetStatus` reports from 3.4 on. It is null right after an election.
pub(super) fn reported(status: &Document) -> Option<OpTime> {
    let optimes = status.get_document("optimes").ok()?;
    op_time(optimes.get("lastCommittedOpTime")?)
}

/// Returns the highest term of any member, if there are terms.
pub(super) fn highest_term(members: &[Member]) -> Option<i64> {
    members
        .iter()
        .filter_map(|member| member.reached.and_then(|(_, term)| term))
        .max()
}

/// Reads `{ts, t}`, or the time alone, which is what protocol version 0 has. The null time is none.
fn op_time(value: &Bson) -> Option<OpTime> {
    let (time, term): (Timestamp, _) = match value {
        Bson::Timestamp(time) => (*time, None),
        Bson::Document(optime) => (
            optime.get_timestamp("ts").ok()?,
            optime.get_i64("t").ok().filter(|term| *term >= 0),
        ),
        _ => return None,
    };
    (time.time > 0).then_some((time, term))
}

fn documents<'a>(document: &'a Document, name: &str) -> impl Iterator<Item = &'a Document> + use<'a> {
    let listed = document.get_array(name).map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(Bson::as_document)
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn at(time: u32) -> Timestamp {
        Timestamp { time, increment: 1 }
    }

    /// A set by the times that its members have reached; `None` for one that is down.
    fn members(reached: &[Option<u32>]) -> Vec<Member> {
        let member = |(id, reached): (usize, &Option<u32>)| Member {
            id: id as u64,
            host: format!("h{id}:1"),
            votes: true,
            arbiter: false,
            reached: reached.map(|time| (at(time), None)),
        };
        reached.iter().enumerate().map(member).collect()
    }

    fn reached(members: &[Member], votes: &Votes) -> Option<u32> {
        reached_by_majority(members, votes).map(|(time, _)| time.time)
    }

    #[test]
    fn a_majority_of_the_votes_is_enough() {
        for (set, expected) in [
            (&[Some(9)][..], Some(9)),
            (&[Some(9), Some(7)], Some(7)),
            (&[Some(9), Some(7), Some(3)], Some(7)),
            (&[Some(9), Some(7), None], Some(7)),
            (&[Some(9), None, None], None),
            (&[Some(9), Some(8), Some(7), Some(6), None], Some(7)),
        ] {
            assert_eq!(reached(&members(set), &Votes::Known), expected, "{set:?}");
        }
    }

    #[test]
    fn members_without_votes_or_data_do_not_count() {
        let mut set = members(&[Some(9), Some(8), Some(7), None]);
        set[1].votes = false;
        set[3].arbiter = true;
        // Of three votes one is an arbiter's: both others are needed.
        assert_eq!(reached(&set, &Votes::Known), Some(7));
        let mut pair = members(&[Some(9), None]);
        pair[1].arbiter = true;
        assert_eq!(reached(&pair, &Votes::Known), Some(9));
        assert_eq!(reached(&[], &Votes::Known), None);
    }

    #[test]
    fn without_the_configuration_every_member_must_have_it() {
        assert_eq!(
            reached(&members(&[Some(9), Some(8), Some(7)]), &Votes::Unknown),
            Some(7)
        );
        assert_eq!(reached(&members(&[Some(9), Some(8), None]), &Votes::Unknown), None);
    }

    #[test]
    fn an_older_term_is_an_older_history() {
        let mut set = members(&[Some(9), Some(20), Some(8)]);
        for (member, term) in set.iter_mut().zip([4, 3, 4]) {
            member.reached = member.reached.map(|(time, _)| (time, Some(term)));
        }
        assert_eq!(reached(&set, &Votes::Known), Some(8));
        assert_eq!(highest_term(&set), Some(4));
    }

    #[test]
    fn status_and_configuration_are_read_in_the_forms_of_every_version() {
        let status = doc! {
            "members": [
                { "_id": 0, "name": "a:1", "state": 1, "optime": at(9) },
                { "_id": 1, "name": "b:1", "state": 2, "optime": { "ts": at(8), "t": 2_i64 } },
                { "_id": 2, "name": "c:1", "state": 9, "optime": { "ts": at(7), "t": 2_i64 } },
                { "_id": 3, "name": "d:1", "state": 7 },
                { "_id": 4, "name": "e:1", "state": 2, "optime": { "ts": at(6), "t": -1_i64 } },
            ],
            "optimes": { "lastCommittedOpTime": { "ts": at(5), "t": 2_i64 } },
        };
        let found = of_status(&status);
        let reached: Vec<_> = found.iter().map(|member| member.reached).collect();
        assert_eq!(
            reached,
            [
                Some((at(9), None)),
                Some((at(8), Some(2))),
                None,
                None,
                Some((at(6), None))
            ]
        );
        assert!(found[3].arbiter);
        assert_eq!(reported(&status), Some((at(5), Some(2))));
        let null =
            doc! { "optimes": { "lastCommittedOpTime": { "ts": Timestamp { time: 0, increment: 0 }, "t": -1_i64 } } };
        assert_eq!(reported(&null), None);
        let configuration = doc! { "members": [
            { "_id": 0, "host": "a:1" },
            { "_id": 1, "host": "b:1", "votes": 0 },
            { "_id": 3, "host": "d:1", "arbiterOnly": true, "votes": 1.0 },
        ] };
        let configured = of_configuration(&configuration);
        let votes: Vec<_> = configured.iter().map(|member| (member.votes, member.arbiter)).collect();
        assert_eq!(votes, [(true, false), (false, false), (true, true)]);
        let joined = with_votes(found, &configured);
        assert_eq!(
            (joined[1].votes, joined[3].arbiter, joined[4].votes),
            (false, true, true)
        );
    }
}
