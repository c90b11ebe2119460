//! Random calls of many members against what must always hold.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, bool),
    Touch(u8),
    Commit(u8, u8, u8),
    Leave(u8),
    Pass(u8),
    Restart,
    Partitions(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..5, any::<bool>()).prop_map(|(m, both)| Step::Put(m, both)),
        2 => (0u8..5).prop_map(Step::Touch),
        3 => (0u8..5, 0u8..4, any::<u8>()).prop_map(|(m, p, o)| Step::Commit(m, p, o)),
        1 => (0u8..5).prop_map(Step::Leave),
        3 => (1u8..40).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => (1u8..8).prop_map(Step::Partitions),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Epoch and assignment as the member last heard of them.
type Heard = BTreeMap<u8, (i32, Assignment)>;

proptest! {
    #[test]
    fn http_groups_keep_their_promises(steps in steps()) {
        let mut bench = Bench::new();
        let (mut heard, mut epoch, mut version) = (Heard::new(), 0, 1);
        let mut committed = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(m, both) => {
                    let topics: &[&str] = if both { &["t", "u"] } else { &["t"] };
                    let place = bench.put(&format!("m{m}"), topics);
                    prop_assert!(place.epoch >= epoch, "epochs rise");
                    epoch = place.epoch;
                    if place.stable {
                        heard.insert(m, (place.epoch, place.assignment));
                    }
                }
                Step::Touch(m) => {
                    bench.ask(GroupCommand::HttpTouch { group_id: "g".into(), member: format!("m{m}") });
                }
                Step::Commit(m, partition, offset) => {
                    let Some((epoch, _)) = heard.get(&m) else { continue };
                    let (partition, offset) = (i32::from(partition % 2), i64::from(offset));
                    let reply = bench.commit(&format!("http:m{m}"), *epoch, &[("u", partition, offset)]);
                    if reply == GroupReply::Each(vec![Ok(())]) {
                        committed.insert(partition, offset);
                    }
                }
                Step::Leave(m) => {
                    let members = vec![LeavingMember { member_id: format!("http:m{m}"), group_instance_id: None }];
                    bench.ask(GroupCommand::Leave(LeaveGroup { group_id: "g".into(), members }));
                }
                Step::Pass(s) => bench.pass(seconds(u64::from(s))),
                Step::Restart => bench.restart(),
                Step::Partitions(n) => {
                    version += 1;
                    bench.topics = table(version, &[("t", 1, i32::from(n)), ("u", 2, 2)]);
                    bench.ask(GroupCommand::Topics(bench.topics.clone()));
                }
            }
            // What was committed is what is read, through restarts too.
            let expected: Vec<String> = committed.iter().map(|(p, o)| format!("u/{p}={o}")).collect();
            prop_assert_eq!(bench.offsets(), expected);
            // Two members that heard of the same epoch never have a partition in common.
            for (_, (epoch, _)) in heard.clone() {
                let mut seen = BTreeSet::new();
                for (_, assignment) in heard.values().filter(|(e, _)| *e == epoch) {
                    for (topic, partitions) in assignment {
                        for partition in partitions {
                            prop_assert!(seen.insert((topic.clone(), *partition)), "{topic}/{partition} twice");
                        }
                    }
                }
            }
        }
        // Whatever happened: members that go on calling share everything soon.
        for _ in 0..200 {
            bench.pass(Duration::from_millis(200));
            for m in 0..3 {
                bench.put(&format!("m{m}"), &["t", "u"]);
            }
        }
        let group = bench.describe();
        prop_assert_eq!((group.state, group.members.len()), (GroupState::Stable, 3));
        let shared: usize = group.members.iter().flat_map(|m| m.partitions.clone().unwrap()).map(|(_, p)| p.len()).sum();
        let all = bench.topics.partitions(&topic("t")) + bench.topics.partitions(&topic("u"));
        prop_assert_eq!(shared, all as usize);
        // And the sessions and timers of who is gone are gone.
        bench.pass(seconds(120));
        prop_assert_eq!(bench.state().2, 0);
        prop_assert!(bench.timers.keys().all(|t| *t == GroupTimer::Retention), "{:?}", bench.timers);
    }
}
