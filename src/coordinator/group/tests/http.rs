//! HTTP members: alone, with one another, and beside Kafka clients.

use super::*;

fn member(name: &str, topics: &[&str]) -> HttpMember {
    HttpMember {
        group_id: "g".into(),
        member: name.into(),
        topics: topics.iter().map(|t| topic(t)).collect(),
        session_timeout: seconds(30),
    }
}

fn text(assignment: &Assignment) -> String {
    let parts = assignment.iter().flat_map(|(t, parts)| parts.iter().map(move |p| format!("{t}/{p}")));
    parts.collect::<Vec<_>>().join(" ")
}

impl Bench {
    pub(super) fn put(&mut self, name: &str, topics: &[&str]) -> Membership {
        let table = self.topics.clone();
        match self.ask(GroupCommand::HttpMember(member(name, topics), table)) {
            GroupReply::Member(place) => place,
            other => panic!("{other:?}"),
        }
    }

    fn touch(&mut self, name: &str) -> GroupReply {
        self.ask(GroupCommand::HttpTouch { group_id: "g".into(), member: name.into() })
    }

    fn leave_http(&mut self, name: &str) {
        let members = vec![LeavingMember { member_id: http_member_id(name), group_instance_id: None }];
        let left = self.ask(GroupCommand::Leave(LeaveGroup { group_id: "g".into(), members }));
        assert_eq!(left, GroupReply::Each(vec![Ok(())]));
    }
}

#[test]
fn one_member_gets_everything_at_once() {
    let mut bench = Bench::new();
    let place = bench.put("a", &["t", "u"]);
    assert_eq!((place.epoch, place.stable), (1, true));
    assert_eq!(text(&place.assignment), "t/0 t/1 t/2 t/3 u/0 u/1");
    assert_eq!(place.heartbeat_interval, seconds(3));
    assert_eq!(bench.put("a", &["t", "u"]), place, "again is a heartbeat");
}

#[test]
fn a_second_member_waits_for_the_firsts_next_call() {
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    let b = bench.put("b", &["t"]);
    assert_eq!((b.stable, text(&b.assignment).as_str()), (false, ""));
    assert!(b.heartbeat_interval < seconds(1), "it is to ask again soon");
    // The first one may still commit what it has read.
    assert_eq!(bench.commit("http:a", 1, &[("t", 3, 7)]), GroupReply::Each(vec![Ok(())]));
    let GroupReply::Member(place) = bench.touch("a") else { panic!() };
    assert_eq!((place.epoch, place.stable), (1, false), "reading is not joining");
    let a = bench.put("a", &["t"]);
    assert_eq!((a.epoch, a.stable, text(&a.assignment).as_str()), (2, true, "t/0 t/1"));
    let b = bench.put("b", &["t"]);
    assert_eq!((b.epoch, text(&b.assignment).as_str()), (2, "t/2 t/3"));
    assert_eq!(b.offsets.values().map(|o| o.offset.get()).collect::<Vec<_>>(), [7], "it goes on where the first was");
    assert_eq!(bench.commit("http:a", 1, &[("t", 3, 8)]), GroupReply::Refused(GroupError::IllegalGeneration));
}

#[test]
fn who_is_silent_is_dropped_and_who_leaves_is_gone_at_once() {
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    bench.put("b", &["t"]);
    bench.put("a", &["t"]);
    for _ in 0..4 {
        bench.pass(seconds(9));
        let _ = bench.touch("a"); // any call renews the session
    }
    assert_eq!(bench.state(), (GroupState::PreparingRebalance, 2, 1));
    assert_eq!(bench.touch("b"), GroupReply::Refused(GroupError::UnknownMemberId));
    let a = bench.put("a", &["t"]);
    assert_eq!((a.epoch, text(&a.assignment).as_str()), (3, "t/0 t/1 t/2 t/3"));
    bench.leave_http("a");
    assert_eq!(bench.state(), (GroupState::Empty, 4, 0));
}

#[test]
fn a_rebalance_ends_without_who_never_calls() {
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    let mut b = bench.put("b", &["t"]);
    let mut waited = Duration::ZERO;
    while !b.stable {
        bench.pass(b.heartbeat_interval);
        waited += b.heartbeat_interval;
        assert!(waited <= seconds(31), "it ends within the session timeout");
        b = bench.put("b", &["t"]);
    }
    assert_eq!(text(&b.assignment), "t/0 t/1 t/2 t/3");
}

#[test]
fn a_changed_subscription_rebalances() {
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    let a = bench.put("a", &["u"]);
    assert_eq!((a.epoch, text(&a.assignment).as_str()), (2, "u/0 u/1"));
    let unknown = bench.put("a", &["not-there-yet"]);
    assert_eq!((unknown.epoch, text(&unknown.assignment).as_str()), (3, ""));
}

#[test]
fn new_partitions_and_topics_are_taken_over() {
    let mut bench = Bench::new();
    bench.put("a", &["t", "later"]);
    bench.topics = table(2, &[("t", 1, 5), ("later", 7, 1)]);
    assert_eq!(bench.ask(GroupCommand::Topics(bench.topics.clone())), GroupReply::Done);
    assert_eq!(bench.state().0, GroupState::PreparingRebalance);
    let a = bench.put("a", &["t", "later"]);
    assert_eq!(text(&a.assignment), "later/0 t/0 t/1 t/2 t/3 t/4");
    // The same again is no change.
    let same = table(3, &[("t", 1, 5), ("later", 7, 1), ("other", 8, 1)]);
    assert_eq!(bench.ask(GroupCommand::Topics(same)), GroupReply::Done);
    assert_eq!(bench.state().0, GroupState::Stable);
}

#[test]
fn members_outlive_their_coordinator() {
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    bench.commit("http:a", 1, &[("t", 0, 5)]);
    bench.restart();
    let a = bench.put("a", &["t"]);
    assert_eq!((a.epoch, a.stable, a.offsets.len()), (1, true, 1), "nobody rebalances for a restart");
    assert_eq!(bench.describe().members[0].http_name.as_deref(), Some("a"));
}

/// A Kafka client with its own connection, and an HTTP member, share one topic.
#[test]
fn a_kafka_client_and_an_http_member_share() {
    let subscription = Subscription { topics: [topic("t")].into(), ..Subscription::default() };
    let join = |id: &str, owned: &Assignment, name: &str| {
        let metadata = Subscription { owned: owned.clone(), ..subscription.clone() }.encode();
        JoinGroup {
            group_id: "g".into(),
            member_id: id.into(),
            group_instance_id: None,
            client_id: "java".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout: seconds(45),
            rebalance_timeout: seconds(300),
            protocol_type: "consumer".into(),
            protocols: vec![GroupProtocol { name: name.into(), metadata }],
            require_known_member_id: false,
            supports_skip_assignment: true,
        }
    };
    let sync = |generation_id| {
        GroupCommand::Sync(SyncGroup {
            group_id: "g".into(),
            generation_id,
            member_id: "java-1".into(),
            group_instance_id: None,
            protocol_type: Some("consumer".into()),
            protocol_name: None,
            assignments: BTreeMap::new(),
        })
    };
    let part = |reply: GroupReply| match reply {
        GroupReply::Synced(synced) => super::super::consumer_protocol::decode_assignment(&synced.assignment).unwrap(),
        other => panic!("{other:?}"),
    };
    for (name, eager) in [("range", true), ("cooperative-sticky", false)] {
        let mut bench = Bench::new();
        bench.put("web", &["t"]);
        let token = bench.send(GroupCommand::Join(join("", &Assignment::new(), name), "java-1".into()));
        bench.put("web", &["t"]);
        let Some(GroupReply::Joined(joined)) = bench.reply(token) else { panic!() };
        assert_eq!((joined.leader.as_str(), joined.members.len()), ("http:web", 0), "the coordinator assigns");
        assert_eq!(joined.protocol_name.as_deref(), Some(name));
        let java = part(bench.ask(sync(2)));
        let web = bench.put("web", &["t"]).assignment;
        let halves = if eager { ("t/2 t/3", "t/0 t/1") } else { ("t/0 t/1", "t/2 t/3") };
        assert_eq!((text(&web).as_str(), text(&java).as_str()), if eager { ("t/0 t/1", "t/2 t/3") } else { halves });
        // The HTTP member goes: the client gets all of it.
        bench.leave_http("web");
        assert_eq!(bench.state().0, GroupState::PreparingRebalance);
        let token = bench.send(GroupCommand::Join(join("java-1", &java, name), "-".into()));
        let Some(GroupReply::Joined(joined)) = bench.reply(token) else { panic!() };
        assert_eq!((joined.leader.as_str(), joined.members.len()), ("java-1", 1), "and assigns for itself");
        let all = Assignment::from([(topic("t"), (0..4).map(PartitionId::new).collect())]);
        let command = GroupCommand::Sync(SyncGroup {
            group_id: "g".into(),
            generation_id: 3,
            member_id: "java-1".into(),
            group_instance_id: None,
            protocol_type: None,
            protocol_name: None,
            assignments: [("java-1".to_owned(), super::super::consumer_protocol::encode_assignment(&all))].into(),
        });
        assert_eq!(part(bench.ask(command)), all);
        // It comes back: a cooperative client reads on, so what moves is free only when the client has let go.
        bench.put("web", &["t"]);
        let token = bench.send(GroupCommand::Join(join("java-1", &all, name), "-".into()));
        let Some(GroupReply::Joined(joined)) = bench.reply(token) else { panic!() };
        let java = part(bench.ask(sync(joined.generation_id)));
        let web = bench.put("web", &["t"]).assignment;
        assert_eq!(java.values().map(Vec::len).sum::<usize>(), 2);
        assert_eq!(web.values().map(Vec::len).sum::<usize>(), if eager { 2 } else { 0 }, "{name}");
        if !eager {
            let token = bench.send(GroupCommand::Join(join("java-1", &java, name), "-".into()));
            assert_eq!(bench.reply(token), None, "joining again with less rebalances");
            let web = bench.put("web", &["t"]).assignment;
            assert_eq!(web.values().map(Vec::len).sum::<usize>(), 2);
            assert!(bench.reply(token).is_some());
        }
    }
}

#[test]
fn no_kafka_client_takes_an_http_members_place() {
    let mut bench = Bench::new();
    bench.put("a", &["t"]);
    let request = JoinGroup {
        group_id: "g".into(),
        member_id: http_member_id("a"),
        group_instance_id: None,
        client_id: "x".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout: seconds(10),
        rebalance_timeout: seconds(10),
        protocol_type: "consumer".into(),
        protocols: vec![GroupProtocol { name: "range".into(), metadata: Bytes::new() }],
        require_known_member_id: false,
        supports_skip_assignment: false,
    };
    let answer = bench.ask(GroupCommand::Join(request, "-".into()));
    assert_eq!(answer, GroupReply::Refused(GroupError::UnknownMemberId));
}
