//! A queue's history that is right gives nothing; each rule is broken once, and found.

use super::*;

const SECOND: u64 = 1_000;

/// Two messages of one key at the start of a topic.
fn sent(by_key: bool) -> Vec<(u64, Event)> {
    let values = vec!["a".to_owned(), "b".to_owned()];
    vec![
        (0, Event::QueueMade { by_key, max_deliveries: 2 }),
        (0, Event::Began { send: 1, writer: 0, partition: 0, values }),
        (1, Event::Acknowledged { send: 1, offsets: vec![0, 1] }),
    ]
}

/// A lease of a second over the message at an offset; call, lease and offset have what they have in common.
fn leased(at: u64, lease: u64, offset: i64, attempt: u16) -> Vec<(u64, Event)> {
    let value = ["a", "b"][offset as usize].to_owned();
    let message = Delivery { lease, partition: 0, offset, key: Some("k".to_owned()), value, attempt };
    vec![
        (at, Event::ReceiveBegan { call: lease, lease_ms: SECOND }),
        (at, Event::Received { call: lease, messages: vec![message] }),
    ]
}

fn said(at: u64, lease: u64, verdict: Verdict, told: Told) -> Vec<(u64, Event)> {
    let call = 1_000_000 + at;
    vec![
        (at, Event::SettleBegan { call, verdicts: vec![(lease, verdict)] }),
        (at + 1, Event::SettleEnded { call, told: vec![told] }),
    ]
}

fn at_rest(at: u64, dead: &[i64], acked: u64) -> Vec<(u64, Event)> {
    vec![(at, Event::QueueAtRest { dead: dead.iter().map(|offset| (0, *offset)).collect(), acked })]
}

fn restart(at: u64) -> Vec<(u64, Event)> {
    vec![(at, Event::Restarted { power_cut: true })]
}

fn broken(parts: &[Vec<(u64, Event)>]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = check(&parts.concat(), Promise::Durable).into_iter().map(|a| a.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn a_history_that_is_right_gives_nothing() {
    for by_key in [false, true] {
        let history = [
            sent(by_key),
            leased(10, 1, 0, 1),
            said(100, 1, Verdict::Extend { lease_ms: 3 * SECOND }, Told::Extended),
            said(2_000, 1, Verdict::Nack { delay_ms: 500 }, Told::Settled),
            leased(2_600, 2, 0, 2),
            restart(3_000),
            said(3_001, 2, Verdict::Ack, Told::Lost),
            leased(3_010, 3, 0, 2),
            said(3_020, 3, Verdict::Ack, Told::Settled),
            said(3_030, 3, Verdict::Ack, Told::AlreadySettled),
            leased(3_100, 4, 1, 1),
            leased(4_200, 5, 1, 2),
            said(4_300, 4, Verdict::Ack, Told::Lost),
            at_rest(6_000, &[1], 1),
        ];
        assert_eq!(check(&history.concat(), Promise::Durable), []);
    }
}

#[test]
fn an_acknowledged_one_comes_again() {
    let acked = [sent(false), leased(10, 1, 0, 1), said(20, 1, Verdict::Ack, Told::Settled)].concat();
    assert_eq!(broken(&[acked.clone(), restart(30), leased(40, 2, 0, 1)]), [Rule::AcknowledgedAgain]);
    // Asked before the answer came, it may have been leased before as well.
    let asked = Event::ReceiveBegan { call: 9, lease_ms: SECOND };
    let mut history = acked.clone();
    history.insert(history.len() - 1, (20, asked));
    let late = leased(30, 9, 0, 2).pop().unwrap();
    assert_eq!(broken(&[history, vec![late]]), []);
}

#[test]
fn one_that_nobody_settled_does_not_come_back() {
    let rest = |at| at_rest(at, &[0, 1], 0);
    let twice = [leased(10, 1, 0, 2), leased(10, 2, 1, 2)].concat();
    assert_eq!(broken(&[sent(false), twice, rest(60_000)]), []);
    let forgotten = [sent(false), leased(10, 1, 0, 1), leased(10, 2, 1, 2)].concat();
    assert_eq!(broken(&[forgotten.clone(), leased(6_000, 3, 0, 2), rest(6_100)]), []);
    assert_eq!(broken(&[forgotten.clone(), leased(6_100, 3, 0, 2), rest(6_100)]), [Rule::NotBack]);
    // What the machine's end cut short is not late; what was late before it is.
    assert_eq!(broken(&[forgotten.clone(), restart(9_000), leased(13_000, 3, 0, 2), rest(13_100)]), []);
    let other = vec![(8_000, Event::ReceiveBegan { call: 77, lease_ms: SECOND })];
    assert_eq!(
        broken(&[forgotten.clone(), other, restart(9_000), leased(9_001, 3, 0, 2), rest(9_100)]),
        [Rule::NotBack]
    );
    let delayed = said(20, 1, Verdict::Nack { delay_ms: 4 * SECOND }, Told::Settled);
    assert_eq!(broken(&[forgotten.clone(), delayed.clone(), leased(9_000, 3, 0, 2), rest(9_100)]), []);
    assert_eq!(broken(&[forgotten, delayed, leased(9_100, 3, 0, 2), rest(9_100)]), [Rule::NotBack]);
    // Nobody ever got it.
    assert_eq!(broken(&[sent(false), leased(5_100, 1, 0, 2), leased(10, 2, 1, 2), rest(5_200)]), [Rule::NotBack]);
    assert_eq!(broken(&[sent(false), vec![(100, Event::QueueNotAtRest)]]), [Rule::NotBack]);
    // Behind others that nobody had before it waits its turn, and for no longer.
    let first = || leased(3_000, 1, 0, 2);
    assert_eq!(broken(&[sent(false), first(), leased(7_900, 2, 1, 2), rest(8_000)]), []);
    assert_eq!(broken(&[sent(false), first(), leased(8_100, 2, 1, 2), rest(8_200)]), [Rule::NotBack]);
    // By key it waits for the one before it, and from then on for no longer.
    let first = [sent(true), leased(10, 1, 0, 1)].concat();
    let acked = said(900, 1, Verdict::Ack, Told::Settled);
    let rest = |at| at_rest(at, &[1], 1);
    assert_eq!(broken(&[first.clone(), acked.clone(), leased(5_900, 2, 1, 2), rest(6_000)]), []);
    let (lost, again) = (leased(1_000, 2, 1, 1), leased(7_100, 3, 1, 2));
    assert_eq!(broken(&[first, acked, lost, again, rest(7_100)]), [Rule::NotBack]);
}

#[test]
fn two_have_a_message_at_once() {
    let first = [sent(false), leased(10, 1, 0, 1)].concat();
    assert_eq!(broken(&[first.clone(), leased(900, 2, 0, 2)]), [Rule::LeasedTwice]);
    assert_eq!(broken(&[first.clone(), leased(1_010, 2, 0, 2)]), []);
    assert_eq!(broken(&[first.clone(), restart(20), leased(900, 2, 0, 1)]), []);
    let failed = vec![
        (20, Event::SettleBegan { call: 5, verdicts: vec![] }),
        (30, Event::QueueFailed { call: 5, why: String::new() }),
    ];
    assert_eq!(broken(&[first.clone(), failed, leased(900, 2, 0, 1)]), []);
    // A full disk may end leases, and no call needs to hear of it; once it has room again, leases hold.
    let disk_is = |at, full| vec![(at, Event::DiskFull { full })];
    let full = [disk_is(5, true), first.clone(), leased(15, 2, 0, 1), disk_is(30, false), leased(40, 3, 0, 1)].concat();
    assert_eq!(broken(&[full[1..].to_vec()]), [Rule::LeasedTwice]);
    assert_eq!(broken(std::slice::from_ref(&full)), []);
    assert_eq!(broken(&[full, leased(900, 4, 0, 2)]), [Rule::LeasedTwice]);
    assert_eq!(
        broken(&[first.clone(), said(20, 1, Verdict::Nack { delay_ms: 0 }, Told::Settled), leased(30, 2, 0, 2)]),
        []
    );
    let extended = said(20, 1, Verdict::Extend { lease_ms: 3 * SECOND }, Told::Extended);
    assert_eq!(broken(&[first, extended, leased(2_000, 2, 0, 2)]), [Rule::LeasedTwice]);
}

#[test]
fn a_key_is_out_of_order() {
    assert_eq!(broken(&[sent(true), leased(10, 1, 1, 1)]), []); // nothing is known of the first one's key
    let turned = [leased(10, 1, 1, 1), leased(2_000, 2, 0, 1)].concat();
    assert_eq!(broken(&[sent(true), turned.clone()]), [Rule::KeyOrder]);
    assert_eq!(broken(&[sent(false), turned]), []);
    let both = [leased(10, 1, 0, 1), leased(500, 2, 1, 1)].concat();
    assert_eq!(broken(&[sent(true), both]), [Rule::LeasedTwice, Rule::KeyOrder]);
    let given_back =
        [leased(10, 1, 0, 1), said(20, 1, Verdict::Nack { delay_ms: 0 }, Told::Settled), leased(30, 2, 1, 1)].concat();
    assert_eq!(broken(&[sent(true), given_back]), [Rule::KeyOrder]);
    // A redrive explains it: it was over once.
    let redriven = [leased(10, 1, 0, 2), leased(2_000, 2, 1, 1), leased(4_000, 3, 0, 1)].concat();
    assert_eq!(broken(&[sent(true), redriven]), []);
}

#[test]
fn a_verdict_is_refused_or_false() {
    let first = [sent(false), leased(10, 1, 0, 1)].concat();
    assert_eq!(broken(&[first.clone(), said(20, 1, Verdict::Ack, Told::Lost)]), [Rule::LeaseLost]);
    assert_eq!(broken(&[first.clone(), said(1_005, 1, Verdict::Ack, Told::Lost)]), []);
    assert_eq!(broken(&[first.clone(), said(20, 1, Verdict::Extend { lease_ms: 9 }, Told::Lost)]), [Rule::LeaseLost]);
    assert_eq!(broken(&[first.clone(), said(20, 1, Verdict::Ack, Told::AlreadySettled)]), [Rule::FalseVerdict]);
    let acked = [first.clone(), said(20, 1, Verdict::Ack, Told::Settled)].concat();
    assert_eq!(broken(&[acked.clone(), said(30, 1, Verdict::Ack, Told::Settled)]), [Rule::FalseVerdict]);
    assert_eq!(broken(&[acked.clone(), said(30, 1, Verdict::Ack, Told::Lost)]), [Rule::LeaseLost]);
    assert_eq!(broken(&[acked.clone(), said(30, 1, Verdict::Nack { delay_ms: 0 }, Told::Lost)]), []);
    assert_eq!(broken(&[first.clone(), restart(15), said(20, 1, Verdict::Ack, Told::Settled)]), [Rule::FalseVerdict]);
    let other = [first, leased(2_000, 2, 0, 2), said(2_010, 2, Verdict::Ack, Told::Settled)].concat();
    assert_eq!(broken(&[other, said(2_020, 1, Verdict::Ack, Told::Settled)]), [Rule::FalseVerdict]);
}

#[test]
fn the_end_does_not_add_up() {
    let acked = [sent(false), leased(10, 1, 0, 1), said(20, 1, Verdict::Ack, Told::Settled)].concat();
    let rejected = [acked.clone(), leased(10, 2, 1, 1), said(20, 2, Verdict::Reject, Told::Settled)].concat();
    assert_eq!(broken(&[rejected.clone(), at_rest(100, &[1], 1)]), []);
    assert_eq!(broken(&[rejected.clone(), at_rest(100, &[], 1)]), [Rule::LostMessage]);
    assert_eq!(broken(&[rejected.clone(), at_rest(100, &[1], 2)]), [Rule::LostMessage]);
    assert_eq!(broken(&[rejected, at_rest(100, &[0, 1], 1)]), [Rule::WronglyDead]);
    assert_eq!(broken(&[acked.clone(), leased(10, 2, 1, 1), at_rest(100, &[1], 1)]), [Rule::WronglyDead]);
    // In doubt it may count or not.
    let in_doubt = vec![(30, Event::SettleBegan { call: 9, verdicts: vec![(2, Verdict::Ack)] })];
    for count in [1, 2] {
        assert_eq!(broken(&[acked.clone(), leased(10, 2, 1, 1), in_doubt.clone(), at_rest(100, &[], count)]), []);
    }
}
