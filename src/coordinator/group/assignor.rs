//! Who gets which partition: the assignors that the coordinator runs on behalf of HTTP members, by Kafka's names.
//!
//! Pure functions. Each gives every partition of every subscribed topic to exactly one member that wants it, and the
//! same input gives the same output.

use super::consumer_protocol::Subscription;
use super::{Assignment, TopicTable};
use crate::types::{PartitionId, TopicName};
use std::collections::{BTreeMap, BTreeSet};

/// Kafka's names, in the order in which HTTP members prefer them: the last moves the fewest partitions.
pub(super) const ASSIGNORS: [&str; 3] = [COOPERATIVE_STICKY, RANGE, ROUND_ROBIN];
pub(super) const COOPERATIVE_STICKY: &str = "cooperative-sticky";
const RANGE: &str = "range";
const ROUND_ROBIN: &str = "roundrobin";
/// Moves that evening out may make: more than enough for any real group.
const MAX_MOVES: usize = 10_000;

/// What members want, by their id.
pub(super) type Subscriptions = BTreeMap<String, Subscription>;
/// What each gets.
pub(super) type Assignments = BTreeMap<String, Assignment>;

type Part<'a> = (&'a TopicName, PartitionId);

/// Runs an assignor; one that the coordinator does not know is taken as `range`.
pub(super) fn assign(name: &str, members: &Subscriptions, topics: &TopicTable) -> Assignments {
    match name {
        COOPERATIVE_STICKY => sticky(members, topics),
        ROUND_ROBIN => round_robin(members, topics),
        _ => range(members, topics),
    }
}

fn wanted(members: &Subscriptions) -> BTreeSet<&TopicName> {
    members.values().flat_map(|s| &s.topics).collect()
}

fn none(members: &Subscriptions) -> Assignments {
    members.keys().map(|member| (member.clone(), Assignment::new())).collect()
}

fn give(assignments: &mut Assignments, member: &str, topic: &TopicName, partition: PartitionId) {
    if let Some(part) = assignments.get_mut(member) {
        part.entry(topic.clone()).or_default().push(partition);
    }
}

/// Topic by topic, each member a run of neighbours; the first members get one more.
fn range(members: &Subscriptions, topics: &TopicTable) -> Assignments {
    let mut assignments = none(members);
    for topic in wanted(members) {
        let partitions = topics.partitions(topic);
        let takers: Vec<&String> = members.iter().filter(|(_, s)| s.topics.contains(topic)).map(|(id, _)| id).collect();
        let (each, more) = (partitions / takers.len() as i32, partitions % takers.len() as i32);
        let mut next = 0;
        for (n, member) in takers.into_iter().enumerate() {
            let count = each + i32::from((n as i32) < more);
            for partition in next..next + count {
                give(&mut assignments, member, topic, PartitionId::new(partition));
            }
            next += count;
        }
    }
    assignments
}

/// All partitions in one row, dealt out in turn to who wants them.
fn round_robin(members: &Subscriptions, topics: &TopicTable) -> Assignments {
    let mut assignments = none(members);
    let ids: Vec<&String> = members.keys().collect();
    let mut turn = 0;
    for topic in wanted(members) {
        for partition in (0..topics.partitions(topic)).map(PartitionId::new) {
            // Somebody wants it: it is in `wanted`.
            while !members[ids[turn % ids.len()]].topics.contains(topic) {
                turn += 1;
            }
            give(&mut assignments, ids[turn % ids.len()], topic, partition);
            turn += 1;
        }
    }
    assignments
}

/// Everybody keeps what they have as far as it is even; the rest goes to who has least.
fn sticky(members: &Subscriptions, topics: &TopicTable) -> Assignments {
    let mut owners = owners(members, topics);
    let mut held: BTreeMap<&str, BTreeSet<(&TopicName, PartitionId)>> =
        members.keys().map(|id| (id.as_str(), BTreeSet::new())).collect();
    for ((topic, partition), owner) in &owners {
        held.entry(owner).or_default().insert((*topic, *partition));
    }
    // By how much they hold, so that the least and the most are at the ends.
    let mut load: BTreeSet<(usize, &str)> = held.iter().map(|(id, parts)| (parts.len(), *id)).collect();
    for topic in wanted(members) {
        for partition in (0..topics.partitions(topic)).map(PartitionId::new) {
            if owners.contains_key(&(topic, partition)) {
                continue;
            }
            let taker = load.iter().find(|(_, id)| members[*id].topics.contains(topic)).copied();
            let Some((count, taker)) = taker else { continue };
            load.remove(&(count, taker));
            load.insert((count + 1, taker));
            held.entry(taker).or_default().insert((topic, partition));
            owners.insert((topic, partition), taker);
        }
    }
    for _ in 0..MAX_MOVES {
        let Some((giver, taker, part)) = uneven(members, &held, &load) else { break };
        let (given, taken) = (held[giver].len(), held[taker].len());
        load.remove(&(given, giver));
        load.remove(&(taken, taker));
        load.insert((given - 1, giver));
        load.insert((taken + 1, taker));
        held.entry(giver).or_default().remove(&part);
        held.entry(taker).or_default().insert(part);
    }
    let mut assignments = none(members);
    for (member, parts) in held {
        for (topic, partition) in parts {
            give(&mut assignments, member, topic, partition);
        }
    }
    assignments
}

/// Who owns what, where that still makes sense: of two that claim it, the one with the newer generation; of two with the
/// same, nobody.
fn owners<'a>(members: &'a Subscriptions, topics: &TopicTable) -> BTreeMap<Part<'a>, &'a str> {
    let mut claims: BTreeMap<Part<'_>, (Option<i32>, Option<&str>)> = BTreeMap::new();
    for (member, subscription) in members {
        for (topic, partitions) in subscription.owned.iter().filter(|(topic, _)| subscription.topics.contains(*topic)) {
            for partition in partitions.iter().filter(|p| p.get() < topics.partitions(topic)) {
                let claim = (subscription.generation, Some(member.as_str()));
                claims
                    .entry((topic, *partition))
                    .and_modify(|best| match claim.0.cmp(&best.0) {
                        std::cmp::Ordering::Greater => *best = claim,
                        std::cmp::Ordering::Equal => best.1 = None,
                        std::cmp::Ordering::Less => {}
                    })
                    .or_insert(claim);
            }
        }
    }
    claims.into_iter().filter_map(|(part, (_, owner))| Some((part, owner?))).collect()
}

/// A move that evens out: from one who has at least two more than another that wants it.
fn uneven<'a>(
    members: &Subscriptions,
    held: &BTreeMap<&'a str, BTreeSet<Part<'a>>>,
    load: &BTreeSet<(usize, &'a str)>,
) -> Option<(&'a str, &'a str, Part<'a>)> {
    for (most, giver) in load.iter().rev() {
        for (least, taker) in load.iter().take_while(|(least, _)| least + 1 < *most) {
            debug_assert!(least < most);
            // The last one: what was given out last moves first.
            let part = held[giver].iter().rev().find(|(topic, _)| members[*taker].topics.contains(*topic));
            if let Some(part) = part {
                return Some((giver, taker, *part));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicId;
    use proptest::prelude::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn table(topics: &[(&str, i32)]) -> TopicTable {
        let id = TopicId::from_random([1; 16]);
        TopicTable::new(1, topics.iter().map(|(topic, n)| (name(topic), (id, *n))).collect())
    }

    fn members(list: &[(&str, &[&str])]) -> Subscriptions {
        let subscription = |topics: &[&str]| Subscription {
            topics: topics.iter().map(|t| name(t)).collect(),
            ..Subscription::default()
        };
        list.iter().map(|(id, topics)| ((*id).to_owned(), subscription(topics))).collect()
    }

    fn text(assignments: &Assignments) -> Vec<String> {
        let part = |(topic, parts): (&TopicName, &Vec<PartitionId>)| {
            format!("{topic}{}", parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        };
        assignments.iter().map(|(id, a)| format!("{id}:{}", a.iter().map(part).collect::<Vec<_>>().join(" "))).collect()
    }

    /// The examples of Kafka's own documentation of its assignors.
    #[test]
    fn range_and_round_robin_are_kafkas() {
        let topics = table(&[("t0", 3), ("t1", 3)]);
        let both = members(&[("C0", &["t0", "t1"]), ("C1", &["t0", "t1"])]);
        assert_eq!(text(&assign("range", &both, &topics)), ["C0:t00,1 t10,1", "C1:t02 t12"]);
        assert_eq!(text(&assign("roundrobin", &both, &topics)), ["C0:t00,2 t11", "C1:t01 t10,2"]);
        let topics = table(&[("t0", 1), ("t1", 2), ("t2", 3)]);
        let differ = members(&[("C0", &["t0"]), ("C1", &["t0", "t1"]), ("C2", &["t0", "t1", "t2"])]);
        assert_eq!(text(&assign("roundrobin", &differ, &topics)), ["C0:t00", "C1:t10", "C2:t11 t20,1,2"]);
    }

    #[test]
    fn sticky_moves_only_what_evens_out() {
        let topics = table(&[("t", 6)]);
        let mut group = members(&[("a", &["t"]), ("b", &["t"])]);
        let first = assign("cooperative-sticky", &group, &topics);
        assert_eq!(text(&first), ["a:t0,2,4", "b:t1,3,5"]);
        for (id, part) in &first {
            group.get_mut(id).unwrap().owned = part.clone();
        }
        group.extend(members(&[("c", &["t"])]));
        let second = assign("cooperative-sticky", &group, &topics);
        assert_eq!(text(&second), ["a:t0,2", "b:t1,3", "c:t4,5"]);
    }

    #[test]
    fn two_that_claim_the_same_are_told_apart_by_generation() {
        let topics = table(&[("t", 2)]);
        let mut group = members(&[("a", &["t"]), ("b", &["t"])]);
        let all = Assignment::from([(name("t"), vec![PartitionId::new(0), PartitionId::new(1)])]);
        group.get_mut("a").unwrap().owned = all.clone();
        group.get_mut("a").unwrap().generation = Some(3);
        group.get_mut("b").unwrap().owned = all;
        group.get_mut("b").unwrap().generation = Some(4);
        assert_eq!(text(&assign("cooperative-sticky", &group, &topics)), ["a:t1", "b:t0"]);
    }

    proptest! {
        #[test]
        fn every_partition_goes_to_one_who_wants_it(
            sizes in proptest::collection::vec(0i32..9, 1..4),
            wants in proptest::collection::vec(proptest::collection::btree_set(0usize..4, 0..4), 1..8),
            owns in proptest::collection::vec((0usize..8, 0usize..4, 0i32..9), 0..20),
        ) {
            let names: Vec<String> = (0..sizes.len()).map(|n| format!("t{n}")).collect();
            let topics = table(&names.iter().map(String::as_str).zip(sizes.iter().copied()).collect::<Vec<_>>());
            let topic = |n: usize| name(&format!("t{n}"));
            let mut group: Subscriptions = wants.iter().enumerate().map(|(n, topics)| {
                let topics = topics.iter().map(|t| topic(*t)).collect();
                (format!("m{n}"), Subscription { topics, ..Subscription::default() })
            }).collect();
            for (member, t, partition) in owns {
                if let Some(member) = group.get_mut(&format!("m{member}")) {
                    member.owned.entry(topic(t)).or_default().push(PartitionId::new(partition));
                }
            }
            for assignor in ASSIGNORS {
                let given = assign(assignor, &group, &topics);
                let mut seen = BTreeSet::new();
                for (member, part) in &given {
                    for (topic, partitions) in part {
                        prop_assert!(group[member].topics.contains(topic), "{} unwanted", assignor);
                        for partition in partitions {
                            prop_assert!(seen.insert((topic, *partition)), "{} twice", assignor);
                            prop_assert!(partition.get() < topics.partitions(topic));
                        }
                    }
                }
                let all: usize = wanted(&group).into_iter().map(|t| topics.partitions(t) as usize).sum();
                prop_assert_eq!(seen.len(), all, "{} leaves some out", assignor);
                prop_assert_eq!(&assign(assignor, &group, &topics), &given);
            }
        }
    }
}
