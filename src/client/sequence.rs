//! An idempotent producer's numbers for one partition, and what an answer means for them. Pure.
//!
//! **Invariant**: a number is used again only for the same batch; another batch gets it only after an answer that says
//! that the first was not stored. Where that cannot be known, the partition goes on under a new producer id, so that no
//! broker takes the next batch for the one in doubt (KIP-98, KIP-360).

use super::{ClientError, Code};
use crate::codec::BatchProducer;
use crate::types::{Offset, ProducerEpoch, ProducerId};

/// A producer id and epoch, as a broker gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// The numbers of one partition. One batch is under way at a time.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    identity: Option<Identity>,
    next: i32,
    /// An attempt at the present batch ended without an answer that says what became of it.
    in_doubt: bool,
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored, once; the offset is missing where the broker did not tell it again.
    Stored(Option<Offset>),
    /// Send the same bytes again.
    Again,
    /// It was not stored, but under these numbers it never will be: get an identity, and build it anew.
    Renumber,
    /// Give up on this batch.
    Failed(ClientError),
}

impl Sequence {
    /// Whether an identity has to be fetched before the next batch.
    pub(super) const fn wants_identity(&self) -> bool {
        self.identity.is_none()
    }

    /// Starts anew under a fresh identity.
    pub(super) fn identify(&mut self, identity: Identity) {
        *self = Self { identity: Some(identity), next: 0, in_doubt: false };
    }

    /// The numbers for the next batch.
    pub(super) fn producer(&self) -> Option<BatchProducer> {
        self.identity.map(|Identity { id, epoch }| BatchProducer { id, epoch, base_sequence: self.next })
    }

    /// Takes in the outcome of one attempt to send the present batch of `count` records.
    pub(super) fn judge(&mut self, count: i32, outcome: Result<Offset, ClientError>) -> Verdict {
        let error = match outcome {
            Ok(offset) => {
                self.advance(count);
                return Verdict::Stored(Some(offset));
            }
            Err(error) => error,
        };
        if let ClientError::Refused { code, .. } = error {
            match code {
                Code::DUPLICATE_SEQUENCE_NUMBER => {
                    self.advance(count);
                    return Verdict::Stored(None);
                }
                // The broker does not know our numbers any more: it forgot them, or lost its newest records.
                Code::OUT_OF_ORDER_SEQUENCE_NUMBER | Code::UNKNOWN_PRODUCER_ID | Code::INVALID_PRODUCER_EPOCH => {
                    let in_doubt = self.in_doubt;
                    self.abandon();
                    return if in_doubt { Verdict::Failed(ClientError::InDoubt(code)) } else { Verdict::Renumber };
                }
                _ => {}
            }
        }
        if error.side_effects() == super::SideEffects::Unknown {
            self.in_doubt = true;
        }
        if error.is_retryable() || error == ClientError::Deadline || error == ClientError::DeadlineBeforeSent {
            return Verdict::Again; // until the batch's own deadline, which the caller keeps
        }
        self.give_up(error)
    }

    /// No further attempt is made: the caller's deadline passed, or sending again is no use.
    pub(super) fn give_up(&mut self, error: ClientError) -> Verdict {
        if self.in_doubt {
            self.abandon();
            // Whatever the last attempt said, an earlier one may have been stored.
            return Verdict::Failed(match error {
                ClientError::Refused { code, .. } => ClientError::InDoubt(code),
                error if error.side_effects() == super::SideEffects::Unknown => error,
                _ => ClientError::Deadline,
            });
        }
        Verdict::Failed(error)
    }

    fn abandon(&mut self) {
        *self = Self::default();
    }

    fn advance(&mut self, count: i32) {
        self.in_doubt = false;
        // After the largest number comes 0.
        self.next = (i64::from(self.next) + i64::from(count)).rem_euclid(1 << 31) as i32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence() -> Sequence {
        let mut sequence = Sequence::default();
        assert!(sequence.wants_identity());
        sequence.identify(Identity { id: ProducerId::new(7), epoch: ProducerEpoch::new(0) });
        sequence
    }

    fn base(sequence: &Sequence) -> Option<i32> {
        sequence.producer().map(|producer| producer.base_sequence)
    }

    fn refused(code: Code) -> Result<Offset, ClientError> {
        Err(ClientError::refused(code))
    }

    #[test]
    fn numbers_go_on_after_what_was_stored_and_only_then() {
        let mut sequence = sequence();
        assert_eq!(sequence.judge(3, refused(Code::NOT_LEADER_OR_FOLLOWER)), Verdict::Again);
        assert_eq!(sequence.judge(3, Err(ClientError::Cut)), Verdict::Again);
        assert_eq!(base(&sequence), Some(0));
        assert_eq!(sequence.judge(3, Ok(Offset::new(40))), Verdict::Stored(Some(Offset::new(40))));
        assert_eq!(base(&sequence), Some(3));
        assert_eq!(sequence.judge(2, refused(Code::DUPLICATE_SEQUENCE_NUMBER)), Verdict::Stored(None));
        assert_eq!(base(&sequence), Some(5));
    }

    #[test]
    fn the_number_after_the_largest_is_zero() {
        let mut sequence = sequence();
        sequence.next = i32::MAX - 1;
        assert_eq!(sequence.judge(2, Ok(Offset::ZERO)), Verdict::Stored(Some(Offset::ZERO)));
        assert_eq!(base(&sequence), Some(0));
    }

    #[test]
    fn what_was_refused_for_good_leaves_its_number_to_the_next() {
        let mut sequence = sequence();
        let error = ClientError::refused(Code::MESSAGE_TOO_LARGE);
        assert_eq!(sequence.judge(3, Err(error.clone())), Verdict::Failed(error));
        assert_eq!(base(&sequence), Some(0));
        assert!(!sequence.wants_identity());
    }

    #[test]
    fn a_batch_in_doubt_takes_its_identity_with_it() {
        let mut sequence = sequence();
        assert_eq!(sequence.judge(3, Err(ClientError::Cut)), Verdict::Again);
        // The second attempt did not get there; the first may have.
        assert_eq!(sequence.judge(3, Err(ClientError::NotSent)), Verdict::Again);
        assert_eq!(sequence.give_up(ClientError::NotSent), Verdict::Failed(ClientError::Deadline));
        assert!(sequence.wants_identity(), "the next batch may not look like the one in doubt");
    }

    #[test]
    fn a_batch_that_never_left_costs_nothing() {
        let mut sequence = sequence();
        assert_eq!(sequence.judge(3, Err(ClientError::NotSent)), Verdict::Again);
        assert_eq!(sequence.give_up(ClientError::NotSent), Verdict::Failed(ClientError::NotSent));
        assert_eq!(base(&sequence), Some(0));
    }

    #[test]
    fn a_broker_that_forgot_us_gets_new_numbers_unless_the_batch_is_in_doubt() {
        for code in [Code::OUT_OF_ORDER_SEQUENCE_NUMBER, Code::UNKNOWN_PRODUCER_ID, Code::INVALID_PRODUCER_EPOCH] {
            let mut fresh = sequence();
            assert_eq!(fresh.judge(3, refused(code)), Verdict::Renumber);
            assert!(fresh.wants_identity());
            let mut doubtful = sequence();
            assert_eq!(doubtful.judge(3, refused(Code::REQUEST_TIMED_OUT)), Verdict::Again);
            assert_eq!(doubtful.judge(3, refused(code)), Verdict::Failed(ClientError::InDoubt(code)));
            assert!(doubtful.wants_identity());
        }
    }
}
