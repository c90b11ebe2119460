//! A history that is right gives nothing; each rule is broken once, and found.

use super::*;

fn began(send: u64, value: &str) -> Event {
    Event::Began { send, writer: 0, partition: 0, values: vec![value.into()] }
}

fn acknowledged(send: u64, offset: i64) -> Event {
    Event::Acknowledged { send, offsets: vec![offset] }
}

fn records(values: &[&str]) -> Vec<(i64, String)> {
    (0..).zip(values.iter().map(|value| (*value).to_owned())).collect()
}

fn read(from: i64, values: &[&str]) -> Event {
    let records = records(values).into_iter().map(|(offset, value)| (from + offset, value)).collect();
    Event::Read { reader: 0, partition: 0, from, records }
}

fn scanned(values: &[&str]) -> Event {
    Event::Scanned { partition: 0, log_start: 0, records: records(values) }
}

fn broken(history: &[Event], promise: Promise) -> Vec<Rule> {
    let history: Vec<(u64, Event)> = history.iter().map(|event| (0, event.clone())).collect();
    let mut rules: Vec<Rule> = check(&history, promise).into_iter().map(|anomaly| anomaly.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

#[test]
fn a_history_that_is_right_gives_nothing() {
    let history = [
        Event::Restarted { power_cut: true },
        scanned(&[]),
        began(1, "a"),
        acknowledged(1, 0),
        read(0, &["a"]),
        began(2, "b"),
        began(3, "c"),
        Event::Refused { send: 3, why: String::new() },
        Event::Restarted { power_cut: true },
        scanned(&["a"]),
        read(1, &[]),
        began(2, "b"),
        acknowledged(2, 1),
        began(3, "c"),
        Event::Unknown { send: 3, why: String::new() },
        read(1, &["b"]),
        Event::Restarted { power_cut: true },
        scanned(&["a", "b", "c"]),
    ];
    for promise in [Promise::Durable, Promise::UntilPowerCut] {
        assert_eq!(broken(&history, promise), []);
    }
}

#[test]
fn an_offset_with_two_values() {
    let history = [
        began(1, "a"),
        acknowledged(1, 0),
        began(2, "b"),
        Event::Unknown { send: 2, why: String::new() },
        read(0, &["b"]),
    ];
    assert!(broken(&history, Promise::Durable).contains(&Rule::InconsistentOffset));
}

#[test]
fn a_value_at_two_offsets() {
    let history = [began(1, "a"), acknowledged(1, 0), scanned(&["a", "a"])];
    assert_eq!(broken(&history, Promise::Durable), [Rule::Duplicate]);
    let resent = [began(1, "a"), acknowledged(1, 0), began(1, "a"), acknowledged(1, 1)];
    assert_eq!(broken(&resent, Promise::Durable), [Rule::Duplicate]);
}

#[test]
fn a_lost_write_and_a_lost_read() {
    let history = [began(1, "a"), acknowledged(1, 0), Event::Restarted { power_cut: true }, scanned(&[])];
    assert_eq!(broken(&history, Promise::Durable), [Rule::LostWrite]);
    assert_eq!(broken(&history, Promise::UntilPowerCut), []);
    let seen = [began(1, "a"), read(0, &["a"]), Event::Restarted { power_cut: true }, scanned(&[])];
    assert_eq!(broken(&seen, Promise::Durable), [Rule::LostWrite]);
    // While the power stays nothing may go, whatever the promise.
    let killed = [began(1, "a"), acknowledged(1, 0), Event::Restarted { power_cut: false }, scanned(&[])];
    assert_eq!(broken(&killed, Promise::UntilPowerCut), [Rule::LostWrite]);
    let without_restart = [began(1, "a"), acknowledged(1, 0), scanned(&[])];
    assert_eq!(broken(&without_restart, Promise::UntilPowerCut), [Rule::LostWrite]);
}

#[test]
fn a_refused_value_that_is_there_and_one_that_nobody_sent() {
    let refused = [began(1, "a"), Event::Refused { send: 1, why: String::new() }, scanned(&["a"])];
    assert_eq!(broken(&refused, Promise::Durable), [Rule::AbortedRead]);
    assert_eq!(broken(&[scanned(&["x"])], Promise::Durable), [Rule::Phantom]);
    let elsewhere = Event::Scanned { partition: 1, log_start: 0, records: records(&["a"]) };
    assert_eq!(broken(&[began(1, "a"), elsewhere], Promise::Durable), [Rule::Phantom]);
}

#[test]
fn what_was_gone_comes_back() {
    let history = [
        began(1, "a"),
        Event::Restarted { power_cut: true },
        scanned(&[]),
        Event::Restarted { power_cut: true },
        scanned(&["a"]),
    ];
    assert_eq!(broken(&history, Promise::Durable), [Rule::CameBack]);
    let resent = [
        began(1, "a"),
        Event::Restarted { power_cut: true },
        scanned(&[]),
        began(1, "a"),
        Event::Restarted { power_cut: true },
        scanned(&["a"]),
    ];
    assert_eq!(broken(&resent, Promise::Durable), []);
}

#[test]
fn what_does_not_come_back() {
    let why = || "damaged".to_owned();
    assert_eq!(broken(&[Event::DoesNotStart { why: why() }], Promise::Durable), [Rule::Unavailable]);
    assert_eq!(broken(&[Event::Unreadable { partition: 0 }], Promise::UntilPowerCut), [Rule::Unavailable]);
}

#[test]
fn a_hole() {
    let records = vec![(0, "a".to_owned()), (2, "b".to_owned())];
    let history = [began(1, "a"), began(2, "b"), Event::Scanned { partition: 0, log_start: 0, records }];
    assert_eq!(broken(&history, Promise::Durable), [Rule::Hole]);
}

#[test]
fn a_reader_that_skips_or_goes_back() {
    let sends = [began(1, "a"), began(2, "b"), read(0, &["a", "b"])];
    let with = |event| [&sends[..], &[event]].concat();
    assert_eq!(broken(&with(read(1, &["b"])), Promise::Durable), [Rule::SkipOrBack]);
    assert_eq!(broken(&with(read(3, &[])), Promise::Durable), [Rule::SkipOrBack]);
    assert_eq!(broken(&with(read(2, &[])), Promise::Durable), []);
}

#[test]
fn offsets_that_go_back() {
    let writer = [began(2, "b"), began(1, "a"), acknowledged(1, 5), acknowledged(2, 4)];
    assert_eq!(broken(&writer, Promise::Durable), [Rule::NonMonotonicSend]);
    let other = Event::Began { send: 2, writer: 1, partition: 0, values: vec!["b".into()] };
    let history = [began(1, "a"), acknowledged(1, 5), other, acknowledged(2, 4)];
    assert_eq!(broken(&history, Promise::Durable), [Rule::RealTime]);
}

#[test]
fn a_reader_that_is_not_told() {
    let lost = |told: &[Event]| {
        let mut history = vec![
            began(1, "a"),
            acknowledged(1, 0),
            read(0, &["a"]),
            Event::Restarted { power_cut: true },
            scanned(&[]),
        ];
        history.extend_from_slice(told);
        history.extend([began(2, "b"), acknowledged(2, 0), scanned(&["b"])]);
        history
    };
    assert_eq!(broken(&lost(&[]), Promise::UntilPowerCut), [Rule::SilentGap]);
    let told = [Event::Gap { reader: 0, partition: 0, to: 0 }];
    assert_eq!(broken(&lost(&told), Promise::UntilPowerCut), []);
    let beyond = [Event::BeyondEnd { reader: 0, partition: 0, position: 1, end: 0 }];
    assert_eq!(broken(&lost(&beyond), Promise::UntilPowerCut), [Rule::SilentGap]);
    assert!(broken(&lost(&told), Promise::Durable).contains(&Rule::UnexpectedGap));
}

#[test]
fn topics_stay_and_go_as_acknowledged() {
    let name = || "t".to_owned();
    let created = [Event::TopicBegan { name: name() }, Event::TopicCreated { name: name(), id: "1".into() }];
    let listed = |topics: &[(&str, &str)]| {
        let own = |(name, id): &(&str, &str)| ((*name).to_owned(), (*id).to_owned());
        Event::TopicsListed { topics: topics.iter().map(own).collect() }
    };
    let after = |events: &[Event]| broken(&[&created[..], events].concat(), Promise::Durable);
    assert_eq!(after(&[listed(&[("t", "1")])]), []);
    assert_eq!(after(&[listed(&[])]), [Rule::LostTopic]);
    assert_eq!(after(&[listed(&[("t", "2")])]), [Rule::LostTopic]);
    assert_eq!(after(&[listed(&[("t", "1"), ("u", "2")])]), [Rule::Phantom]);

    let delete = Event::TopicDeleteBegan { name: name() };
    assert_eq!(after(&[delete.clone(), listed(&[])]), []);
    assert_eq!(after(&[delete.clone(), listed(&[("t", "1")])]), []);
    assert_eq!(after(&[delete.clone(), listed(&[]), listed(&[("t", "1")])]), [Rule::TopicCameBack]);
    let deleted = Event::TopicDeleted { name: name() };
    assert_eq!(after(&[delete, deleted, listed(&[("t", "1")])]), [Rule::TopicCameBack]);

    // Seen once, an unacknowledged topic stays; seen gone, it stays gone.
    let began = Event::TopicBegan { name: name() };
    assert_eq!(broken(&[began.clone(), listed(&[("t", "1")]), listed(&[])], Promise::Durable), [Rule::LostTopic]);
    assert_eq!(broken(&[began, listed(&[]), listed(&[("t", "1")])], Promise::Durable), [Rule::TopicCameBack]);
}
