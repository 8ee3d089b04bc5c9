//! Requests about the verification of collections.

use std::sync::Arc;

use tokio::time::Instant;

use super::RoutingState;
use super::actions::{Action, Reply};
use crate::engine::messages::VerificationRequest;
use crate::engine::track::collection::CollectionProgress;
use crate::engine::track::verification::{CollectionVerification, RangeVerification, VerificationState};
use crate::model::Namespace;
use crate::order::Key;

impl RoutingState {
    /// Handles a request about the verification of collections.
    pub fn verify(&mut self, request: VerificationRequest, now: Instant, actions: &mut Vec<Action>) {
        let reply = match request {
            VerificationRequest::Begin { collections, reply } => {
                self.each_verification(&collections, |tracked| tracked.verification.ask(), now, actions);
                Reply::Done(reply)
            }
            VerificationRequest::End { collections, reply } => {
                let end = |tracked: &mut CollectionProgress| {
                    if !tracked.rule.is_continuous() {
                        tracked.verification = RangeVerification::default();
                    }
                };
                self.each_verification(&collections, end, now, actions);
                Reply::Done(reply)
            }
            VerificationRequest::State { collections, reply } => {
                Reply::Verification(reply, self.verification_states(&collections))
            }
            VerificationRequest::Open { collection, reply } => {
                let tracked = self.tracked.get(&collection);
                Reply::Open(reply, tracked.and_then(|tracked| tracked.verification.open()))
            }
            VerificationRequest::Repair { namespace, keys, reply } => {
                self.repair_documents(&namespace, keys, now, actions);
                Reply::Done(reply)
            }
        };
        actions.push(Action::Reply(reply));
    }

    /// Applies `change` to these collections, or to all collections if none are given, while nothing is being compared.
    fn each_verification(
        &mut self,
        collections: &[Namespace],
        change: impl Fn(&mut CollectionProgress),
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.stop_checks(now, actions);
        let is_meant =
            |tracked: &&CollectionProgress| collections.is_empty() || collections.contains(&tracked.target.namespace);
        let meant = self.tracked.values().filter(is_meant);
        for id in meant.map(|tracked| tracked.target.id).collect::<Vec<_>>() {
            if let Some(tracked) = self.tracked.get_mut(&id) {
                change(tracked);
            }
        }
    }

    fn verification_states(&self, collections: &[Namespace]) -> Vec<CollectionVerification> {
        self.tracked
            .values()
            .filter(|tracked| collections.is_empty() || collections.contains(&tracked.target.namespace))
            .map(|tracked| CollectionVerification {
                namespace: tracked.target.namespace.clone(),
                target: tracked.target.target.clone(),
                state: if tracked.target.kind.has_ranges() {
                    tracked.verification.state()
                } else {
                    VerificationState::NoRanges
                },
            })
            .collect()
    }

    /// Refetches documents, so that the sink has them as the source does.
    fn repair_documents(&mut self, namespace: &Namespace, keys: Vec<Key>, now: Instant, actions: &mut Vec<Action>) {
        self.stop_checks(now, actions);
        let found = self
            .tracked
            .values()
            .find(|tracked| tracked.target.namespace == *namespace);
        let Some(tracked) = found else { return };
        actions.push(Action::Refetch {
            target: Arc::clone(&tracked.target),
            keys: keys.into_iter().collect(),
        });
    }
}
