//! Commits, and when they are let go.

use super::*;

fn commit(member: &str, generation_id: i32, offsets: &[(&str, i32, i64)]) -> CommitOffsets {
    let offset = |&(name, partition, offset): &(&str, i32, i64)| OffsetToCommit {
        topic: topic(name),
        partition: PartitionId::new(partition),
        offset: Offset::new(offset),
        leader_epoch: None,
        metadata: String::new(),
    };
    CommitOffsets {
        group_id: "g".into(),
        generation_id,
        member_id: member.into(),
        group_instance_id: None,
        offsets: offsets.iter().map(offset).collect(),
    }
}

impl Bench {
    pub(super) fn commit(&mut self, member: &str, generation: i32, offsets: &[(&str, i32, i64)]) -> GroupReply {
        let topics = self.topics.clone();
        self.ask(GroupCommand::Commit(commit(member, generation, offsets), topics))
    }

    pub(super) fn offsets(&mut self) -> Vec<String> {
        match self.ask(GroupCommand::Offsets("g".into())) {
            GroupReply::Offsets(offsets) => offsets.iter().map(|((t, p), o)| format!("{t}/{p}={}", o.offset)).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn set_topics(&mut self, topics: Arc<TopicTable>) {
        self.topics = topics.clone();
        assert_eq!(self.ask(GroupCommand::Topics(topics)), GroupReply::Done);
    }
}

fn each(results: &[Result<(), GroupError>]) -> GroupReply {
    GroupReply::Each(results.to_vec())
}

#[test]
fn a_lone_consumer_commits_forwards_and_backwards() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit("", -1, &[("t", 0, 5), ("t", 3, 9)]), each(&[Ok(()), Ok(())]));
    assert_eq!(bench.commit("", -1, &[("t", 0, 2)]), each(&[Ok(())]));
    assert_eq!(bench.offsets(), ["t/0=2", "t/3=9"]);
    bench.restart();
    assert_eq!(bench.offsets(), ["t/0=2", "t/3=9"]);
}

#[test]
fn what_can_not_be_committed_is_told_by_offset() {
    let mut bench = Bench::new();
    let unknown = || Err(GroupError::UnknownTopicOrPartition);
    assert_eq!(bench.commit("", -1, &[("t", 4, 1), ("v", 0, 1), ("t", 1, 1)]), each(&[unknown(), unknown(), Ok(())]));
    let mut noted = commit("", -1, &[("t", 0, 1)]);
    noted.offsets[0].metadata = "x".repeat(4097);
    let topics = bench.topics.clone();
    let answer = bench.ask(GroupCommand::Commit(noted, topics));
    assert_eq!(answer, each(&[Err(GroupError::OffsetMetadataTooLarge(4096))]));
    assert_eq!(bench.offsets(), ["t/1=1"]);
}

#[test]
fn only_members_of_the_generation_commit() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit("a", 1, &[("t", 0, 1)]), GroupReply::Refused(GroupError::IllegalGeneration));
    assert_eq!(bench.describe().state, GroupState::Dead);
    bench.put("a", &["t"]);
    assert_eq!(bench.commit("", -1, &[("t", 0, 1)]), GroupReply::Refused(GroupError::UnknownMemberId));
    assert_eq!(bench.commit("http:b", 1, &[("t", 0, 1)]), GroupReply::Refused(GroupError::UnknownMemberId));
    assert_eq!(bench.commit("http:a", 0, &[("t", 0, 1)]), GroupReply::Refused(GroupError::IllegalGeneration));
    assert_eq!(bench.commit("http:a", 1, &[("t", 0, 1)]), each(&[Ok(())]));
}

#[test]
fn a_deleted_topics_offsets_go_with_it() {
    let mut bench = Bench::new();
    bench.commit("", -1, &[("t", 0, 5), ("u", 0, 7)]);
    // Made again under its name: it shares nothing with the old one.
    bench.set_topics(table(2, &[("t", 9, 4), ("u", 2, 2)]));
    assert_eq!(bench.offsets(), ["u/0=7"]);
    assert_eq!(bench.commit("", -1, &[("t", 0, 1)]), each(&[Ok(())]));
    // An older view of the metadata comes late and changes nothing.
    assert_eq!(bench.ask(GroupCommand::Topics(table(1, &[("u", 2, 2)]))), GroupReply::Done);
    assert_eq!(bench.offsets(), ["t/0=1", "u/0=7"]);
    bench.restart();
    assert_eq!(bench.offsets(), ["t/0=1", "u/0=7"]);
    // Deleted while the coordinator was away.
    bench.topics = table(3, &[("t", 9, 4)]);
    bench.restart();
    assert_eq!(bench.offsets(), ["t/0=1"]);
}

#[test]
fn offsets_are_kept_for_the_retention_time() {
    let day = seconds(86_400);
    let mut bench = Bench::new();
    bench.commit("", -1, &[("t", 0, 5)]);
    bench.pass(day * 6);
    assert_eq!(bench.offsets(), ["t/0=5"]);
    bench.commit("", -1, &[("t", 1, 5)]);
    bench.pass(day + seconds(1000));
    assert_eq!(bench.offsets(), ["t/1=5"], "each counts from its commit");
    bench.pass(day * 7);
    assert_eq!(bench.describe().state, GroupState::Dead);
    bench.restart();
    assert_eq!(bench.describe().state, GroupState::Dead);
}

#[test]
fn a_group_that_had_members_keeps_its_offsets_from_when_the_last_one_left() {
    let day = seconds(86_400);
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    bench.commit("http:a", 1, &[("t", 0, 5)]);
    for _ in 0..(8 * 86_400 / 20) {
        bench.pass(seconds(20));
        bench.put("a", &["t"]);
    }
    assert_eq!(bench.offsets(), ["t/0=5"], "old, but in use");
    bench.pass(day * 6);
    assert_eq!((bench.state().0, bench.offsets().len()), (GroupState::Empty, 1));
    bench.pass(day * 2);
    assert_eq!(bench.describe().state, GroupState::Dead);
}

#[test]
fn offsets_are_deleted_but_not_under_a_reader() {
    let mut bench = Bench::new();
    let delete = |names: &[&str]| {
        GroupCommand::DeleteOffsets("g".into(), names.iter().map(|n| (topic(n), PartitionId::new(0))).collect())
    };
    assert_eq!(bench.ask(delete(&["t"])), GroupReply::Refused(GroupError::GroupIdNotFound));
    bench.put("a", &["t"]);
    bench.commit("http:a", 1, &[("t", 0, 5), ("u", 0, 7)]);
    assert_eq!(bench.ask(delete(&["t", "u"])), each(&[Err(GroupError::GroupSubscribedToTopic), Ok(())]));
    assert_eq!(bench.offsets(), ["t/0=5"]);
}
