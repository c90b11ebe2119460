//! The rules of a queue: who had which message when, and what was said of it.
//!
//! A worker knows only when it asked and when it was answered; what happened lies in between. So of a lease there is a
//! time in which it was *surely* held (from the answer, for its length after the question, unless something ended it) and
//! one until which it *may* have been. A rule speaks of what is sure. A restart ends every lease, and so may a call that
//! failed, or a disk that is full: the coordinator may have loaded its state anew, and a receive does not wait for what
//! could not be stored, so no call needs to fail with it.

use super::{Anomaly, Delivery, Event, Rule, Told, Verdict};
use std::collections::BTreeMap;

/// How late a message may come after the time from which it should.
const LATE_MS: u64 = 5_000;
/// The history's clock moves in steps, and so do the queue's timers.
const SLACK_MS: u64 = 5;

type Place = (i32, i64);
/// Messages of a key: the offset, and from when on it may be over.
type Before = Vec<(i64, Option<usize>)>;

/// A call under way.
struct Call {
    began: usize,
    began_ms: u64,
    lease_ms: u64,
    /// Each with the time until which its lease was surely held when it was said.
    verdicts: Vec<(u64, Verdict, u64)>,
}

struct Lease {
    place: Place,
    attempt: u16,
    answered: usize,
    from_ms: u64,
    surely_until_ms: u64,
    maybe_until_ms: u64,
    /// What was said first that ends it, and what came of that.
    verdict: Option<(Verdict, usize, Option<Told>)>,
    /// When it was said, or answered.
    verdict_ms: u64,
    restarts: u32,
}

#[derive(Default)]
struct Message {
    key: Option<String>,
    leases: Vec<u64>,
    /// Since when it should be there to be delivered, while nobody had it.
    known_ms: u64,
    /// When its acknowledgement was answered, and under which lease.
    acked: Option<(usize, u64)>,
    /// From when on it may be over: acknowledged, rejected, delivered as often as it may be.
    may_be_over: Option<usize>,
}

#[derive(Default)]
pub(super) struct QueueChecker {
    is_made: bool,
    by_key: bool,
    max_deliveries: u16,
    anomalies: Vec<Anomaly>,
    sends: BTreeMap<u64, i32>,
    calls: BTreeMap<u64, Call>,
    leases: BTreeMap<u64, Lease>,
    messages: BTreeMap<Place, Message>,
    /// When a partition's last message came that nobody had before: those behind it wait their turn.
    fresh_ms: BTreeMap<i32, u64>,
    now_ms: u64,
    /// When something was last seen to fail, or to start again: nothing was due before.
    floor_ms: u64,
    restarts: u32,
    disk_is_full: bool,
}

impl Lease {
    const fn is_over(&self, max_deliveries: u16) -> bool {
        match self.verdict {
            Some((Verdict::Ack | Verdict::Reject, _, Some(Told::Settled | Told::AlreadySettled))) => true,
            Some((Verdict::Nack { .. }, _, Some(Told::Settled | Told::AlreadySettled))) => {
                self.attempt >= max_deliveries
            }
            _ => false,
        }
    }

    /// When its message should be there again; `None` if that can not be said.
    fn due_ms(&self, max_deliveries: u16) -> Option<u64> {
        let was_last = self.attempt >= max_deliveries;
        match self.verdict {
            None | Some((_, _, Some(Told::Lost))) => (!was_last).then_some(self.maybe_until_ms),
            Some((Verdict::Nack { delay_ms }, _, told)) => {
                let after = self.verdict_ms + delay_ms;
                let due = if told.is_some() { after } else { after.max(self.maybe_until_ms) };
                (!was_last).then_some(due)
            }
            Some(_) => None,
        }
    }
}

impl QueueChecker {
    fn broken(&mut self, rule: Rule, what: String) {
        self.anomalies.push(Anomaly { rule, what });
    }

    pub(super) fn take(&mut self, index: usize, at_ms: u64, event: &Event) {
        if self.disk_is_full {
            self.end_leases(at_ms);
        }
        match event {
            Event::Began { send, partition, .. } => drop(self.sends.insert(*send, *partition)),
            Event::Acknowledged { send, offsets } => {
                if let Some(partition) = self.sends.get(send) {
                    for offset in offsets {
                        let new = || Message { known_ms: at_ms, ..Message::default() };
                        self.messages.entry((*partition, *offset)).or_insert_with(new);
                    }
                }
            }
            Event::QueueMade { by_key, max_deliveries } => {
                (self.is_made, self.by_key, self.max_deliveries) = (true, *by_key, *max_deliveries);
            }
            Event::Restarted { .. } => {
                // Up to the last that was seen of the machine before.
                self.nothing_is_late();
                self.disk_is_full = false;
                self.restarts += 1;
                self.end_leases(at_ms);
            }
            Event::DiskFull { full } => {
                self.disk_is_full = *full;
                self.end_leases(at_ms);
            }
            Event::ReceiveBegan { call, lease_ms } => {
                let call_began = Call { began: index, began_ms: at_ms, lease_ms: *lease_ms, verdicts: Vec::new() };
                self.calls.insert(*call, call_began);
            }
            Event::Received { call, messages } => {
                if let Some(call) = self.calls.remove(call) {
                    messages.iter().for_each(|message| self.delivered(index, at_ms, &call, message));
                }
            }
            Event::SettleBegan { call, verdicts } => self.settling(index, at_ms, *call, verdicts),
            Event::SettleEnded { call, told } => {
                if let Some(call) = self.calls.remove(call) {
                    for (said, told) in call.verdicts.iter().zip(told) {
                        self.told(index, at_ms, &call, *said, *told);
                    }
                }
            }
            Event::QueueFailed { call, .. } => {
                if let Some(call) = self.calls.remove(call) {
                    self.end_leases(call.began_ms);
                    self.floor_ms = self.floor_ms.max(at_ms);
                }
            }
            Event::QueueAtRest { dead, acked } => {
                self.now_ms = at_ms;
                self.nothing_is_late();
                self.at_rest(dead, *acked);
            }
            Event::QueueNotAtRest => {
                self.now_ms = at_ms;
                self.nothing_is_late();
                self.broken(Rule::NotBack, format!("at {at_ms} ms the queue is not worked through"));
            }
            _ => {}
        }
        self.now_ms = at_ms;
    }

    /// None is surely held from this time on.
    fn end_leases(&mut self, at_ms: u64) {
        self.floor_ms = self.floor_ms.max(at_ms);
        for lease in self.leases.values_mut() {
            lease.surely_until_ms = lease.surely_until_ms.min(at_ms);
        }
    }

    fn delivered(&mut self, index: usize, at_ms: u64, call: &Call, delivery: &Delivery) {
        let Delivery { lease, partition, offset, ref key, ref value, attempt } = *delivery;
        let place = (partition, offset);
        let message = self.messages.entry(place).or_default();
        message.key.clone_from(key);
        if let Some((when, _)) = message.acked.filter(|(when, _)| *when < call.began) {
            let what = format!("{value} at {partition}:{offset} came (event {index}) after its answer (event {when})");
            self.broken(Rule::AcknowledgedAgain, what);
        }
        self.on_time(place, at_ms);
        let surely_until_ms = match call.began_ms < self.floor_ms {
            true => at_ms, // what failed meanwhile may have ended it before it was told
            false => (call.began_ms + call.lease_ms).saturating_sub(SLACK_MS),
        };
        let maybe_until_ms = at_ms + call.lease_ms + SLACK_MS;
        let new = Lease {
            place,
            attempt,
            answered: index,
            from_ms: at_ms,
            surely_until_ms,
            maybe_until_ms,
            verdict: None,
            verdict_ms: at_ms,
            restarts: self.restarts,
        };
        self.leases.insert(lease, new);
        let was_last = attempt >= self.max_deliveries;
        let message = self.messages.entry(place).or_default();
        if message.leases.is_empty() {
            self.fresh_ms.insert(partition, at_ms);
        }
        message.leases.push(lease);
        if was_last {
            message.may_be_over.get_or_insert(index);
        }
    }

    fn settling(&mut self, index: usize, at_ms: u64, call: u64, verdicts: &[(u64, Verdict)]) {
        let mut said = Vec::new();
        for (number, verdict) in verdicts {
            let Some(lease) = self.leases.get_mut(number) else { continue };
            said.push((*number, *verdict, lease.surely_until_ms));
            if let Verdict::Extend { lease_ms } = verdict {
                lease.maybe_until_ms = lease.maybe_until_ms.max(at_ms + lease_ms + SLACK_MS);
                continue;
            }
            lease.surely_until_ms = lease.surely_until_ms.min(at_ms);
            if lease.verdict.is_none() {
                lease.verdict = Some((*verdict, index, None));
                lease.verdict_ms = at_ms;
            }
            if matches!(verdict, Verdict::Ack | Verdict::Reject)
                && let Some(message) = self.messages.get_mut(&lease.place)
            {
                message.may_be_over.get_or_insert(index);
            }
        }
        self.calls.insert(call, Call { began: index, began_ms: at_ms, lease_ms: 0, verdicts: said });
    }

    fn told(&mut self, index: usize, at_ms: u64, call: &Call, said: (u64, Verdict, u64), told: Told) {
        let (number, verdict, surely_until_ms) = said;
        let Some(lease) = self.leases.get_mut(&number) else { return };
        let (partition, offset) = lease.place;
        let first = lease.verdict;
        let is_same = first.is_some_and(|(first, ..)| first == verdict);
        let answered = first.and_then(|(_, _, told)| told);
        let was_settled = matches!(answered, Some(Told::Settled | Told::AlreadySettled));
        let what = |why: &str| format!("{verdict:?} of {partition}:{offset} (event {index}) was {told:?}: {why}");
        let mut broken = Vec::new();
        match (told, verdict) {
            (Told::Lost, _) if is_same && was_settled => {
                broken.push((Rule::LeaseLost, what("it was answered before")));
            }
            // What was said of it before may be what ended it.
            (Told::Lost, _) if is_same && first.is_some_and(|(_, when, _)| when < call.began) => {}
            (Told::Lost, _) if at_ms < surely_until_ms && self.floor_ms <= call.began_ms => {
                broken.push((Rule::LeaseLost, what("it was held")));
            }
            (Told::Settled, _) if was_settled => broken.push((Rule::FalseVerdict, what("it was settled before"))),
            (Told::Settled | Told::Extended, _) if lease.restarts < self.restarts => {
                broken.push((Rule::FalseVerdict, what("its lease is from before a restart")));
            }
            (Told::AlreadySettled, _) if !is_same || first.is_some_and(|(_, when, _)| when == call.began) => {
                broken.push((Rule::FalseVerdict, what("nobody had said so before")));
            }
            (Told::Extended, Verdict::Extend { lease_ms }) => {
                let surely = (call.began_ms + lease_ms).saturating_sub(SLACK_MS);
                if first.is_none() && self.floor_ms <= call.began_ms {
                    lease.surely_until_ms = lease.surely_until_ms.max(surely);
                }
                lease.maybe_until_ms = lease.maybe_until_ms.max(at_ms + lease_ms + SLACK_MS);
            }
            _ => {}
        }
        if is_same && !was_settled {
            lease.verdict = first.map(|(verdict, when, _)| (verdict, when, Some(told)));
            lease.verdict_ms = at_ms;
        }
        if verdict == Verdict::Ack && matches!(told, Told::Settled | Told::AlreadySettled) {
            let message = self.messages.entry((partition, offset)).or_default();
            let (_, by) = *message.acked.get_or_insert((index, number));
            if by != number {
                broken.push((Rule::FalseVerdict, what("another lease of it was acknowledged")));
            }
        }
        broken.into_iter().for_each(|(rule, what)| self.broken(rule, what));
    }

    /// Since when a message is to be had; `None` while it is not, or where nobody can say.
    fn due_ms(&self, place: Place) -> Option<u64> {
        let message = self.messages.get(&place)?;
        let mut due = match message.leases.last().and_then(|lease| self.leases.get(lease)) {
            None => message.known_ms.max(self.fresh_ms.get(&place.0).copied().unwrap_or_default()),
            Some(lease) => lease.due_ms(self.max_deliveries)?,
        };
        if message.acked.is_some() {
            return None;
        }
        if self.by_key {
            // Behind another of its key it waits for that one. The key of one that nobody got is not known.
            message.leases.first()?;
            let key = message.key.as_ref();
            let before =
                self.messages.range((place.0, 0)..place).filter(|(_, m)| key.is_some() && m.key.as_ref() == key);
            for (_, before) in before {
                let last = before.leases.last().and_then(|lease| self.leases.get(lease))?;
                if !last.is_over(self.max_deliveries) {
                    return None;
                }
                due = due.max(last.verdict_ms);
            }
        }
        Some(due.max(self.floor_ms))
    }

    fn on_time(&mut self, place: Place, at_ms: u64) {
        if let Some(due) = self.due_ms(place).filter(|due| at_ms > due + LATE_MS) {
            let (partition, offset) = place;
            self.broken(Rule::NotBack, format!("{partition}:{offset} was due at {due} ms, and at {at_ms} ms not back"));
        }
    }

    fn nothing_is_late(&mut self) {
        if self.is_made {
            let places: Vec<Place> = self.messages.keys().copied().collect();
            places.into_iter().for_each(|place| self.on_time(place, self.now_ms));
        }
    }

    fn at_rest(&mut self, dead: &[Place], acked: u64) {
        let (mut surely, mut maybe, mut broken) = (0, 0, Vec::new());
        for (place, message) in &self.messages {
            let (partition, offset) = place;
            let leases = || message.leases.iter().filter_map(|lease| self.leases.get(lease));
            let is_dead = dead.contains(place);
            let in_doubt = leases().any(|l| matches!(l.verdict, Some((Verdict::Ack, _, None | Some(Told::Lost)))));
            surely += u64::from(message.acked.is_some());
            maybe += u64::from(message.acked.is_some() || in_doubt);
            if is_dead {
                let rejected = leases().any(|lease| matches!(lease.verdict, Some((Verdict::Reject, ..))));
                let often = leases().any(|lease| lease.attempt >= self.max_deliveries);
                if message.acked.is_some() || !(rejected || often) {
                    broken.push((Rule::WronglyDead, format!("{partition}:{offset} is a dead letter")));
                }
            } else if message.acked.is_none() && !in_doubt {
                broken.push((Rule::LostMessage, format!("{partition}:{offset} is neither settled nor a dead letter")));
            }
        }
        if !(surely..=maybe).contains(&acked) {
            let what = format!("{acked} are acknowledged, and {surely} to {maybe} should be");
            broken.push((Rule::LostMessage, what));
        }
        broken.into_iter().for_each(|(rule, what)| self.broken(rule, what));
    }

    /// What can only be said when every message's key is known.
    pub(super) fn end(mut self) -> Vec<Anomaly> {
        let mut by_message: BTreeMap<Place, Vec<&Lease>> = BTreeMap::new();
        let mut by_key: BTreeMap<(i32, &str), Vec<&Lease>> = BTreeMap::new();
        for lease in self.leases.values() {
            by_message.entry(lease.place).or_default().push(lease);
            let key = self.messages.get(&lease.place).and_then(|message| message.key.as_deref());
            if let Some(key) = key.filter(|_| self.by_key) {
                by_key.entry((lease.place.0, key)).or_default().push(lease);
            }
        }
        let mut broken: Vec<String> = by_message.values().filter_map(|leases| overlap(leases)).collect();
        broken.extend(by_key.values().filter_map(|leases| overlap(leases)));
        broken.sort();
        broken.dedup();
        let mut order = Vec::new();
        let mut before: BTreeMap<(i32, &str), Before> = BTreeMap::new();
        for ((partition, offset), message) in self.messages.iter().filter(|_| self.by_key) {
            let Some(key) = message.key.as_deref() else { continue };
            let before = before.entry((*partition, key)).or_default();
            let came = message.leases.first().and_then(|lease| self.leases.get(lease)).map(|lease| lease.answered);
            for (other, may_be_over) in before.iter() {
                if came.is_some_and(|came| may_be_over.is_none_or(|over| over > came)) {
                    order.push(format!("{partition}:{offset} of {key} came before {partition}:{other} was over"));
                }
            }
            before.push((*offset, message.may_be_over));
        }
        broken.into_iter().for_each(|what| self.anomalies.push(Anomaly { rule: Rule::LeasedTwice, what }));
        order.into_iter().for_each(|what| self.anomalies.push(Anomaly { rule: Rule::KeyOrder, what }));
        self.anomalies
    }
}

/// Two leases that were surely held at one time.
fn overlap(leases: &[&Lease]) -> Option<String> {
    let mut held: Vec<_> = leases.iter().filter(|l| l.from_ms < l.surely_until_ms).collect();
    held.sort_by_key(|lease| lease.from_ms);
    let mut longest: Option<&&&Lease> = None;
    for lease in &held {
        if let Some(other) = longest.filter(|other| other.surely_until_ms > lease.from_ms) {
            let ((p, a), (_, b)) = (other.place, lease.place);
            let (from, until) = (other.from_ms, other.surely_until_ms);
            return Some(format!("{p}:{a} was leased from {from} to {until} ms, and {p}:{b} at {} ms", lease.from_ms));
        }
        if longest.is_none_or(|other| lease.surely_until_ms > other.surely_until_ms) {
            longest = Some(lease);
        }
    }
    None
}
