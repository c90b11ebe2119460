//! Join, sync, heartbeat, leave, and what time does.

use super::*;

fn join(id: &str, protocols: &[&str]) -> JoinGroup {
    JoinGroup {
        group_id: "g".into(),
        member_id: id.into(),
        group_instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout: seconds(10),
        rebalance_timeout: seconds(60),
        protocol_type: "consumer".into(),
        protocols: protocols
            .iter()
            .map(|name| GroupProtocol { name: (*name).into(), metadata: Bytes::from_static(b"meta") })
            .collect(),
        require_known_member_id: false,
        supports_skip_assignment: false,
    }
}

fn fixed(id: &str, instance: &str) -> JoinGroup {
    JoinGroup { group_instance_id: Some(instance.into()), ..join(id, &["range"]) }
}

fn sync(id: &str, generation_id: i32, assignments: &[(&str, &'static str)]) -> GroupCommand {
    GroupCommand::Sync(SyncGroup {
        group_id: "g".into(),
        generation_id,
        member_id: id.into(),
        group_instance_id: None,
        protocol_type: None,
        protocol_name: None,
        assignments: assignments
            .iter()
            .map(|(id, part)| ((*id).to_owned(), Bytes::from_static(part.as_bytes())))
            .collect(),
    })
}

fn heartbeat(id: &str, generation_id: i32) -> GroupCommand {
    let (group_id, member_id) = ("g".into(), id.into());
    GroupCommand::Heartbeat(GroupHeartbeat { group_id, generation_id, member_id, group_instance_id: None })
}

fn leave(id: &str) -> GroupCommand {
    let members = vec![LeavingMember { member_id: id.into(), group_instance_id: None }];
    GroupCommand::Leave(LeaveGroup { group_id: "g".into(), members })
}

fn synced(part: &'static str) -> Option<GroupReply> {
    let (protocol_type, protocol_name) = (Some("consumer".into()), Some("range".into()));
    let assignment = Bytes::from_static(part.as_bytes());
    Some(GroupReply::Synced(SyncedGroup { protocol_type, protocol_name, assignment }))
}

impl Bench {
    fn join(&mut self, request: JoinGroup, new_id: &str) -> ReplyToken {
        self.send(GroupCommand::Join(request, new_id.into()))
    }

    fn joined(&mut self, token: ReplyToken) -> JoinedGroup {
        match self.reply(token) {
            Some(GroupReply::Joined(joined)) => joined,
            other => panic!("{other:?}"),
        }
    }

    /// Members `a` (the leader) and `b`, stable in generation 2.
    fn pair() -> Self {
        let mut bench = Self::new();
        let a = bench.join(join("", &["range"]), "a");
        bench.joined(a);
        let b = bench.join(join("", &["range"]), "b");
        assert_eq!(bench.reply(b), None, "it waits for the first");
        let a = bench.join(join("a", &["range"]), "-");
        let (a, b) = (bench.joined(a), bench.joined(b));
        assert_eq!((a.generation_id, b.generation_id, a.leader.as_str(), b.leader.as_str()), (2, 2, "a", "a"));
        assert_eq!((a.members.len(), b.members.len()), (2, 0), "the leader alone sees the members");
        let follower = bench.send(sync("b", 2, &[]));
        assert_eq!(bench.reply(follower), None, "it waits for the leader");
        let leader = bench.send(sync("a", 2, &[("a", "part a"), ("b", "part b")]));
        assert_eq!((bench.reply(leader), bench.reply(follower)), (synced("part a"), synced("part b")));
        assert_eq!(bench.state(), (GroupState::Stable, 2, 2));
        bench
    }
}

#[test]
fn two_members_share() {
    let mut bench = Bench::pair();
    assert_eq!(bench.ask(heartbeat("b", 2)), GroupReply::Done);
    assert_eq!(bench.send(sync("b", 2, &[])), ReplyToken::new(bench.next_token - 1));
    assert_eq!(Some(bench.ask(heartbeat("b", 1))), refused(GroupError::IllegalGeneration));
    assert_eq!(Some(bench.ask(heartbeat("c", 2))), refused(GroupError::UnknownMemberId));
    assert_eq!(Some(bench.ask(sync("b", 3, &[]))), refused(GroupError::IllegalGeneration));
}

#[test]
fn a_new_member_gets_its_id_first() {
    let mut bench = Bench::new();
    let request = JoinGroup { require_known_member_id: true, ..join("", &["range"]) };
    let first = bench.join(request.clone(), "new");
    assert_eq!(bench.reply(first), refused(GroupError::MemberIdRequired("new".into())));
    let again = bench.join(JoinGroup { member_id: "new".into(), ..request.clone() }, "-");
    assert_eq!(bench.joined(again).member_id, "new");
    // Nobody comes back with this one.
    bench.join(request, "ghost");
    bench.pass(seconds(11));
    assert!(!bench.timers.keys().any(|t| matches!(t, GroupTimer::PendingJoin(..))));
    let ghost = bench.join(join("ghost", &["range"]), "-");
    assert_eq!(bench.reply(ghost), refused(GroupError::UnknownMemberId));
}

#[test]
fn a_silent_member_is_dropped_and_the_rest_rebalances() {
    let mut bench = Bench::pair();
    for _ in 0..3 {
        bench.pass(seconds(4));
        let _ = bench.ask(heartbeat("a", 2));
    }
    assert_eq!(bench.state(), (GroupState::PreparingRebalance, 2, 1));
    assert_eq!(Some(bench.ask(heartbeat("a", 2))), refused(GroupError::RebalanceInProgress));
    let a = bench.join(join("a", &["range"]), "-");
    assert_eq!(bench.joined(a).generation_id, 3);
    let b = bench.join(join("b", &["range"]), "-");
    assert_eq!(bench.reply(b), refused(GroupError::UnknownMemberId));
}

#[test]
fn who_does_not_join_again_in_time_is_left_behind() {
    let mut bench = Bench::pair();
    let c = bench.join(join("", &["range"]), "c");
    let a = bench.join(join("a", &["range"]), "-");
    for _ in 0..15 {
        bench.pass(seconds(4));
        let _ = bench.ask(heartbeat("b", 2)); // alive, and does not join
    }
    let (a, c) = (bench.joined(a), bench.joined(c));
    assert_eq!((a.generation_id, c.generation_id, a.members.len()), (3, 3, 2));
    assert_eq!(Some(bench.ask(heartbeat("b", 2))), refused(GroupError::UnknownMemberId));
}

#[test]
fn a_leader_that_does_not_sync_is_dropped() {
    let mut bench = Bench::new();
    let a = bench.join(JoinGroup { session_timeout: seconds(100), ..join("", &["range"]) }, "a");
    bench.joined(a);
    bench.pass(seconds(61));
    assert_eq!(bench.state(), (GroupState::Empty, 2, 0));
}

#[test]
fn a_follower_waiting_for_a_dead_leader_is_told_to_join_again() {
    let mut bench = Bench::new();
    let a = bench.join(join("", &["range"]), "a");
    bench.joined(a);
    let b = bench.join(join("", &["range"]), "b");
    let a = bench.join(join("a", &["range"]), "-");
    bench.joined(a);
    bench.joined(b);
    let waiting = bench.send(sync("b", 2, &[]));
    bench.pass(seconds(11)); // the leader's session ends
    assert_eq!(bench.reply(waiting), refused(GroupError::RebalanceInProgress));
    let b = bench.join(join("b", &["range"]), "-");
    assert_eq!(bench.joined(b).leader, "b");
}

#[test]
fn leaving_is_at_once() {
    let mut bench = Bench::pair();
    assert_eq!(bench.ask(leave("b")), GroupReply::Each(vec![Ok(())]));
    assert_eq!(bench.ask(leave("b")), GroupReply::Each(vec![Err(GroupError::UnknownMemberId)]));
    assert_eq!(bench.state(), (GroupState::PreparingRebalance, 2, 1));
    assert_eq!(bench.ask(leave("a")), GroupReply::Each(vec![Ok(())]));
    assert_eq!(bench.state(), (GroupState::Empty, 3, 0));
    assert!(!bench.timers.keys().any(|t| *t != GroupTimer::Retention), "{:?}", bench.timers);
}

#[test]
fn the_first_members_are_waited_for_together() {
    let settings = GroupSettings { initial_rebalance_delay: seconds(3), ..GroupSettings::default() };
    let mut bench = Bench::with(settings);
    let a = bench.join(join("", &["range"]), "a");
    bench.pass(seconds(2));
    let b = bench.join(join("", &["range"]), "b");
    bench.pass(seconds(2));
    assert_eq!(bench.reply(a), None, "somebody came, so it waits on");
    bench.pass(seconds(3));
    let (a, b) = (bench.joined(a), bench.joined(b));
    assert_eq!((a.generation_id, b.generation_id, a.members.len()), (1, 1, 2));
}

#[test]
fn the_protocol_is_one_that_all_offer() {
    let mut bench = Bench::new();
    let a = bench.join(join("", &["sticky", "range"]), "a");
    assert_eq!(bench.joined(a).protocol_name.as_deref(), Some("sticky"));
    let stranger = bench.join(join("", &["other"]), "x");
    assert_eq!(bench.reply(stranger), refused(GroupError::InconsistentGroupProtocol));
    let kind = bench.join(JoinGroup { protocol_type: "connect".into(), ..join("", &["range"]) }, "x");
    assert_eq!(bench.reply(kind), refused(GroupError::InconsistentGroupProtocol));
    let none = bench.join(join("", &[]), "x");
    assert_eq!(bench.reply(none), refused(GroupError::InconsistentGroupProtocol));
    let b = bench.join(join("", &["range"]), "b");
    let a = bench.join(join("a", &["sticky", "range"]), "-");
    assert_eq!(bench.joined(a).protocol_name.as_deref(), Some("range"));
    bench.joined(b);
}

#[test]
fn bad_requests_are_refused() {
    let mut bench = Bench::with(GroupSettings { max_size: 1, ..GroupSettings::default() });
    let empty = bench.join(JoinGroup { group_id: String::new(), ..join("", &["range"]) }, "a");
    assert_eq!(bench.reply(empty), refused(GroupError::InvalidGroupId));
    let long = bench.join(JoinGroup { session_timeout: seconds(86_400), ..join("", &["range"]) }, "a");
    let out_of_range = GroupError::InvalidSessionTimeout { min_ms: 1000, max_ms: 1_800_000 };
    assert_eq!(bench.reply(long), refused(out_of_range));
    let made_up = bench.join(join("made-up", &["range"]), "-");
    assert_eq!(bench.reply(made_up), refused(GroupError::UnknownMemberId));
    assert_eq!(bench.describe().state, GroupState::Dead, "nothing is left of a refused join");
    bench.join(join("", &["range"]), "a");
    let second = bench.join(join("", &["range"]), "b");
    assert_eq!(bench.reply(second), refused(GroupError::GroupMaxSizeReached));
}

#[test]
fn a_follower_that_asks_again_disturbs_nobody() {
    let mut bench = Bench::pair();
    let b = bench.join(join("b", &["range"]), "-");
    assert_eq!(bench.joined(b).generation_id, 2);
    assert_eq!(bench.state().0, GroupState::Stable);
    let a = bench.join(join("a", &["range"]), "-");
    assert_eq!(bench.reply(a), None, "a leader that joins again wants a rebalance");
    assert_eq!(bench.state().0, GroupState::PreparingRebalance);
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut bench = Bench::new();
    let a = bench.join(fixed("", "one"), "a-1");
    assert_eq!(bench.joined(a).member_id, "a-1");
    let part = bench.send(sync("a-1", 1, &[("a-1", "part")]));
    assert_eq!(bench.reply(part), synced("part"));
    let back = bench.join(fixed("", "one"), "a-2");
    let joined = bench.joined(back);
    assert_eq!((joined.member_id.as_str(), joined.generation_id, joined.leader.as_str()), ("a-2", 1, "a-1"));
    let part = bench.send(sync("a-2", 1, &[]));
    assert_eq!(bench.reply(part), synced("part"));
    let fenced = bench.join(fixed("a-1", "one"), "-");
    assert_eq!(bench.reply(fenced), refused(GroupError::FencedInstanceId));
    let skips = bench.join(JoinGroup { supports_skip_assignment: true, ..fixed("", "one") }, "a-3");
    let joined = bench.joined(skips);
    assert_eq!((joined.skip_assignment, joined.leader.as_str(), joined.members.len()), (true, "a-3", 1));
    // Its session ends like any other's.
    bench.pass(seconds(11));
    assert_eq!(bench.state(), (GroupState::Empty, 2, 0));
}

#[test]
fn a_group_outlives_its_coordinator() {
    let mut bench = Bench::pair();
    bench.restart();
    assert_eq!(bench.state(), (GroupState::Stable, 2, 2));
    assert_eq!(bench.ask(heartbeat("b", 2)), GroupReply::Done);
    let part = bench.send(sync("b", 2, &[]));
    assert_eq!(bench.reply(part), synced("part b"));
    bench.pass(seconds(11));
    assert_eq!(bench.state().2, 0, "who is silent is dropped after a whole session");
    bench.restart();
    assert_eq!(bench.state(), (GroupState::Empty, 3, 0));
    assert_eq!(bench.ask(GroupCommand::Delete("g".into())), GroupReply::Done);
    bench.restart();
    assert_eq!(bench.describe().state, GroupState::Dead);
}

#[test]
fn a_group_with_members_is_not_deleted() {
    let mut bench = Bench::pair();
    assert_eq!(Some(bench.ask(GroupCommand::Delete("g".into()))), refused(GroupError::NonEmptyGroup));
    assert_eq!(Some(bench.ask(GroupCommand::Delete("h".into()))), refused(GroupError::GroupIdNotFound));
    let GroupReply::Listed(groups) = bench.ask(GroupCommand::List) else { panic!() };
    let listing =
        GroupListing { group_id: "g".into(), protocol_type: "consumer".into(), state: GroupState::Stable, members: 2 };
    assert_eq!(groups, [listing]);
}

/// Clock jumps move nothing but what is stored.
#[test]
fn the_wall_clock_ends_no_session() {
    let mut bench = Bench::pair();
    bench.now.wall_ms += 86_400_000;
    bench.pass(seconds(9));
    assert_eq!(bench.state(), (GroupState::Stable, 2, 2));
    bench.now.wall_ms -= 2 * 86_400_000;
    assert_eq!(bench.ask(heartbeat("a", 2)), GroupReply::Done);
    bench.pass(seconds(2));
    assert_eq!(bench.state().2, 1);
}
