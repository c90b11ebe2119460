use super::*;

fn id(n: i32) -> BrokerId {
    BrokerId::new(n)
}

fn topic_id(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn run(image: &mut MetadataImage, command: Command) -> Response {
    apply(image, &Versioned { level: 1, command })
}

fn registration(broker: i32, incarnation: u64, disk: u8) -> BrokerRegistration {
    BrokerRegistration {
        broker: id(broker),
        incarnation,
        storage_id: [disk; 16],
        http: None,
        kafka: None,
        peer: None,
        feature_level: 1,
        now_ms: 5,
    }
}

fn register(image: &mut MetadataImage, broker: i32, incarnation: u64) -> u64 {
    match run(image, Command::RegisterBroker(registration(broker, incarnation, broker as u8))) {
        Response::Registered { broker_epoch } => broker_epoch,
        other => panic!("{other:?}"),
    }
}

fn create(image: &mut MetadataImage, text: &str, n: u8, assignment: &[&[i32]]) -> Response {
    let assignment = assignment.iter().map(|r| r.iter().map(|b| id(*b)).collect()).collect();
    let command =
        Command::CreateTopic { name: name(text), id: topic_id(n), assignment, config: BTreeMap::new(), now_ms: 7 };
    run(image, command)
}

fn partition(image: &MetadataImage, n: u8) -> PartitionImage {
    image.topic(topic_id(n)).unwrap().partitions[0].clone()
}

#[test]
fn a_topic_is_made_once_and_found_by_both_names() {
    let mut image = MetadataImage::default();
    assert_eq!(create(&mut image, "a", 1, &[&[1]]), Response::Refused(Refusal::UnknownBroker(id(1))));
    register(&mut image, 1, 10);
    assert_eq!(create(&mut image, "a", 1, &[&[1], &[1]]), Response::Done);
    let before = image.clone();
    assert_eq!(create(&mut image, "a", 1, &[&[1]]), Response::Done, "the same command again");
    assert_eq!(create(&mut image, "a", 2, &[&[1]]), Response::Refused(Refusal::TopicExists(name("a"))));
    assert_eq!(image, before);
    assert_eq!(image.topic_by_name(&name("a")).unwrap().partition_count(), 2);
    assert_eq!(image.topic(topic_id(1)).unwrap().name, name("a"));
    assert_eq!(run(&mut image, Command::DeleteTopic { id: topic_id(1) }), Response::Done);
    assert!(image.topic(topic_id(1)).is_none() && image.topic_by_name(&name("a")).is_none());
    let again = run(&mut image, Command::DeleteTopic { id: topic_id(1) });
    assert_eq!(again, Response::Refused(Refusal::UnknownTopic(topic_id(1))));
}

#[test]
fn bad_assignments_and_configs_are_refused_and_change_nothing() {
    let mut image = MetadataImage::default();
    register(&mut image, 1, 10);
    register(&mut image, 2, 11);
    let before = image.clone();
    for assignment in [&[][..], &[&[][..]], &[&[1, 1]], &[&[1, 2], &[1]], &[&[3]]] {
        assert!(matches!(create(&mut image, "a", 1, assignment), Response::Refused(_)), "{assignment:?}");
    }
    let command = Command::CreateTopic {
        name: name("a"),
        id: topic_id(1),
        assignment: vec![vec![id(1)]],
        config: BTreeMap::from([("flush".to_owned(), "sometimes".to_owned())]),
        now_ms: 0,
    };
    assert!(matches!(run(&mut image, command), Response::Refused(Refusal::InvalidConfig(_))));
    assert_eq!(image, before);
}

#[test]
fn the_leader_epoch_rises_at_every_start_of_the_leader() {
    let mut image = MetadataImage::default();
    let first = register(&mut image, 1, 10);
    create(&mut image, "a", 1, &[&[1]]);
    assert_eq!(partition(&image, 1).leader_epoch.get(), 0);
    assert_eq!(register(&mut image, 1, 10), first, "the same start, sent twice");
    assert_eq!(partition(&image, 1).leader_epoch.get(), 0);
    let second = register(&mut image, 1, 11);
    assert!(second > first);
    assert_eq!(partition(&image, 1).leader_epoch.get(), 1);
    assert_eq!(partition(&image, 1).partition_epoch, 1);
    assert_eq!(partition(&image, 1).leader, Some(id(1)));
}

#[test]
fn fencing_moves_the_leader_within_the_isr() {
    let mut image = MetadataImage::default();
    let one = register(&mut image, 1, 10);
    let two = register(&mut image, 2, 11);
    create(&mut image, "a", 1, &[&[1, 2]]);
    let fence = |broker, broker_epoch, fenced| Command::FenceBroker { broker: id(broker), broker_epoch, fenced };
    assert_eq!(run(&mut image, fence(1, one, true)), Response::Done);
    assert_eq!((partition(&image, 1).leader, partition(&image, 1).isr), (Some(id(2)), vec![id(2)]));
    assert_eq!(partition(&image, 1).leader_epoch.get(), 1);
    assert_eq!(run(&mut image, fence(2, two, true)), Response::Done);
    assert_eq!(
        (partition(&image, 1).leader, partition(&image, 1).isr),
        (None, vec![id(2)]),
        "the last one stays named"
    );
    assert_eq!(run(&mut image, fence(1, one, false)), Response::Done);
    assert_eq!(partition(&image, 1).leader, None, "a replica that is not in sync is never elected");
    assert_eq!(run(&mut image, fence(2, two, false)), Response::Done);
    assert_eq!(partition(&image, 1).leader, Some(id(2)));
    let stale = run(&mut image, fence(2, two + 9, true));
    assert!(matches!(stale, Response::Refused(Refusal::StaleBrokerEpoch { .. })));
}

#[test]
fn a_wiped_disk_never_leads_what_it_lost() {
    let mut image = MetadataImage::default();
    register(&mut image, 1, 10);
    register(&mut image, 2, 11);
    create(&mut image, "alone", 1, &[&[1]]);
    create(&mut image, "both", 2, &[&[1, 2]]);
    for incarnation in [12, 13] {
        run(&mut image, Command::RegisterBroker(registration(1, incarnation, 99)));
        assert_eq!(partition(&image, 1).leader, None, "start {incarnation} with the empty disk");
    }
    assert_eq!((partition(&image, 2).leader, partition(&image, 2).isr), (Some(id(2)), vec![id(2)]));
}

#[test]
fn isr_changes_compare_both_epochs() {
    let mut image = MetadataImage::default();
    let one = register(&mut image, 1, 10);
    let two = register(&mut image, 2, 11);
    create(&mut image, "a", 1, &[&[1, 2]]);
    let change = |leader_epoch, partition_epoch, isr: &[(i32, u64)]| Command::AlterPartition {
        topic: topic_id(1),
        partition: PartitionId::ZERO,
        leader_epoch: LeaderEpoch::new(leader_epoch),
        partition_epoch,
        isr: isr.iter().map(|(b, e)| IsrMember { broker: id(*b), broker_epoch: *e }).collect(),
    };
    let shrunk = run(&mut image, change(0, 0, &[(1, one)]));
    assert_eq!(shrunk, Response::PartitionAltered { partition_epoch: 1 });
    assert_eq!(partition(&image, 1).isr, vec![id(1)]);
    let before = image.clone();
    for bad in [
        change(0, 0, &[(1, one), (2, two)]),
        change(1, 1, &[(1, one), (2, two)]),
        change(0, 1, &[(2, two)]),
        change(0, 1, &[]),
        change(0, 1, &[(1, one), (1, one)]),
        change(0, 1, &[(1, one), (2, two + 1)]),
    ] {
        assert!(matches!(run(&mut image, bad.clone()), Response::Refused(_)), "{bad:?}");
    }
    assert_eq!(image, before);
    assert_eq!(run(&mut image, change(0, 1, &[(2, two), (1, one)])), Response::PartitionAltered { partition_epoch: 2 });
}

#[test]
fn altering_a_topic_is_all_or_nothing() {
    let mut image = MetadataImage::default();
    register(&mut image, 1, 10);
    create(&mut image, "a", 1, &[&[1]]);
    let alter = |set: &[(&str, &str)], reset: &[&str], add: usize, expected| Command::AlterTopic {
        id: topic_id(1),
        set: set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        reset: reset.iter().map(|k| (*k).to_owned()).collect(),
        add_partitions: vec![vec![id(1)]; add],
        expected_partitions: expected,
    };
    assert_eq!(run(&mut image, alter(&[("flush", "os")], &[], 2, 1)), Response::Done);
    let before = image.clone();
    assert!(matches!(run(&mut image, alter(&[], &[], 1, 1)), Response::Refused(Refusal::InvalidPartitions(_))));
    assert!(matches!(
        run(&mut image, alter(&[("flush", "x")], &[], 1, 3)),
        Response::Refused(Refusal::InvalidConfig(_))
    ));
    assert!(matches!(run(&mut image, alter(&[], &["flosh"], 0, 3)), Response::Refused(Refusal::InvalidConfig(_))));
    assert_eq!(image, before);
    assert_eq!(run(&mut image, alter(&[("retention.ms", "1")], &["flush"], 0, 0)), Response::Done);
    let topic = image.topic(topic_id(1)).unwrap();
    assert_eq!(topic.partition_count(), 3);
    assert_eq!(topic.overrides, BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]));
}

#[test]
fn producer_ids_never_come_twice() {
    let mut image = MetadataImage::default();
    let epoch = register(&mut image, 1, 10);
    let ask = Command::AllocateProducerIds { broker: id(1), broker_epoch: epoch, count: 1000 };
    let given = |response| match response {
        Response::ProducerIds { first, count } => (first.get(), count),
        other => panic!("{other:?}"),
    };
    assert_eq!(given(run(&mut image, ask.clone())), (0, 1000));
    assert_eq!(given(run(&mut image, ask)), (1000, 1000));
}

#[test]
fn a_command_above_the_feature_level_is_refused() {
    let mut image = MetadataImage::default();
    let newer = Versioned { level: 2, command: Command::SetClusterConfig { changes: BTreeMap::new() } };
    let refused = Response::Refused(Refusal::FeatureLevel { needed: 2, current: 1 });
    assert_eq!(apply(&mut image, &newer), refused);
    register(&mut image, 1, 10);
    assert_eq!(run(&mut image, Command::SetFeatureLevel { level: 2 }), refused, "broker 1 knows only level 1");
}

#[test]
fn assignments_go_round_the_brokers() {
    let mut image = MetadataImage::default();
    for broker in 1..=3 {
        register(&mut image, broker, u64::from(broker as u8));
    }
    let assignment = image.assign(3, 2, 4).unwrap();
    assert_eq!(assignment, vec![vec![id(2), id(3)], vec![id(3), id(1)], vec![id(1), id(2)]]);
    assert!(image.assign(1, 4, 0).is_err() && image.assign(1, 0, 0).is_err());
}

#[test]
fn an_image_survives_its_form() {
    let mut image = MetadataImage::default();
    register(&mut image, 1, u64::MAX);
    create(&mut image, "a", 1, &[&[1], &[1]]);
    run(&mut image, Command::SetClusterConfig { changes: BTreeMap::from([("a".to_owned(), Some("b".to_owned()))]) });
    let bytes = serde_json::to_vec(&super::super::image::ImageForm::from(&image)).unwrap();
    let form: super::super::image::ImageForm = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(MetadataImage::from(form), image);
}
