//! The controller's state machine: what a command does to the metadata.
//!
//! **Invariant**: pure. The same commands on the same image give the same image and the same answers, on every broker
//! and at every replay of the log; a refused command changes nothing. Leader epochs and partition epochs only rise.

use super::command::{BrokerRegistration, Command, IsrMember, Refusal, Response, Versioned};
use super::image::{BrokerImage, MetadataImage, PartitionImage, TopicImage};
use super::{FEATURE_LEVEL, FeatureLevel};
use crate::types::{
    BrokerId, ConfigKey, LeaderEpoch, PartitionId, ProducerId, TopicConfig, TopicDefaults, TopicId, TopicName,
};
use std::{collections::BTreeMap, sync::Arc};

/// Partitions of one topic, at most: each is a folder and three files on every replica.
pub const MAX_PARTITIONS: usize = 10_000;

/// Producer ids handed out at once, at most: a typing error must not use up the numbers.
const MAX_PRODUCER_IDS: u32 = 1_000_000;

/// Applies one command.
pub(super) fn apply(image: &mut MetadataImage, versioned: &Versioned) -> Response {
    // A command from above the cluster's level may mean something that not every broker knows.
    if versioned.level > image.feature_level {
        return Response::Refused(Refusal::FeatureLevel { needed: versioned.level, current: image.feature_level });
    }
    let result = match &versioned.command {
        Command::RegisterBroker(registration) => register_broker(image, registration),
        Command::FenceBroker { broker, broker_epoch, fenced } => fence_broker(image, *broker, *broker_epoch, *fenced),
        Command::CreateTopic { name, id, assignment, config, now_ms } => {
            create_topic(image, name, *id, assignment, config, *now_ms)
        }
        Command::DeleteTopic { id } => delete_topic(image, *id),
        Command::AlterTopic { id, set, reset, add_partitions, expected_partitions } => {
            alter_topic(image, *id, set, reset, add_partitions, *expected_partitions)
        }
        Command::AlterPartition { topic, partition, leader_epoch, partition_epoch, isr } => {
            alter_partition(image, *topic, *partition, (*leader_epoch, *partition_epoch), isr)
        }
        Command::AllocateProducerIds { broker, broker_epoch, count } => {
            allocate_producer_ids(image, *broker, *broker_epoch, *count)
        }
        Command::SetClusterConfig { changes } => {
            set_cluster_config(image, changes);
            Ok(Response::Done)
        }
        Command::SetFeatureLevel { level } => set_feature_level(image, *level),
    };
    result.unwrap_or_else(Response::Refused)
}

// ---- brokers --------------------------------------------------------------------------------------------------------

fn register_broker(image: &mut MetadataImage, registration: &BrokerRegistration) -> Result<Response, Refusal> {
    let id = registration.broker;
    if registration.feature_level < image.feature_level {
        return Err(Refusal::FeatureLevel { needed: image.feature_level, current: registration.feature_level });
    }
    let before = image.brokers.get(&id);
    if let Some(before) = before.filter(|b| b.incarnation == registration.incarnation) {
        return Ok(Response::Registered { broker_epoch: before.epoch }); // the answer to the first try was lost
    }
    let wiped = before.is_some_and(|b| b.storage_id != registration.storage_id);
    image.last_broker_epoch += 1;
    let broker_epoch = image.last_broker_epoch;
    // Not fenced: a broker registers when it has recovered and is about to serve.
    let broker = BrokerImage {
        epoch: broker_epoch,
        incarnation: registration.incarnation,
        storage_id: registration.storage_id,
        http: registration.http.clone(),
        kafka: registration.kafka.clone(),
        peer: registration.peer.clone(),
        fenced: false,
        feature_level: registration.feature_level,
        registered_ms: registration.now_ms,
    };
    Arc::make_mut(&mut image.brokers).insert(id, broker);
    change_partitions(image, |partition, eligible| {
        if !partition.replicas.contains(&id) {
            return false;
        }
        if wiped {
            // Another disk: what this replica acknowledged is gone, so it counts as in sync nowhere, and where it was
            // the last one, nobody may be elected but by hand.
            let led = partition.leader == Some(id);
            let was_in_sync = partition.isr.contains(&id);
            partition.isr.retain(|b| *b != id);
            if led {
                elect(partition, eligible);
            }
            return led || was_in_sync;
        }
        let leads = partition.leader == Some(id);
        let may_lead = partition.leader.is_none() && partition.isr.contains(&id);
        if leads || may_lead {
            partition.leader = Some(id);
            partition.leader_epoch = partition.leader_epoch.plus(1);
        }
        leads || may_lead
    });
    Ok(Response::Registered { broker_epoch })
}

fn fence_broker(image: &mut MetadataImage, id: BrokerId, epoch: u64, fenced: bool) -> Result<Response, Refusal> {
    check_broker_epoch(image, id, epoch)?;
    let broker = Arc::make_mut(&mut image.brokers).get_mut(&id).expect("checked just above");
    if broker.fenced == fenced {
        return Ok(Response::Done);
    }
    broker.fenced = fenced;
    change_partitions(image, |partition, eligible| {
        if fenced {
            let led = partition.leader == Some(id);
            let left = partition.isr.contains(&id) && leave_isr(partition, id);
            if led {
                elect(partition, eligible);
            }
            led || left
        } else if partition.leader.is_none() && partition.isr.contains(&id) {
            elect(partition, eligible);
            true
        } else {
            false
        }
    });
    Ok(Response::Done)
}

fn check_broker_epoch(image: &MetadataImage, broker: BrokerId, given: u64) -> Result<(), Refusal> {
    let current = image.brokers.get(&broker).ok_or(Refusal::UnknownBroker(broker))?.epoch;
    if current == given { Ok(()) } else { Err(Refusal::StaleBrokerEpoch { broker, given, current }) }
}

/// Takes a member out of the ISR, unless it is the last one.
fn leave_isr(partition: &mut PartitionImage, id: BrokerId) -> bool {
    let stays = partition.isr.len() == 1 || !partition.isr.contains(&id);
    if !stays {
        partition.isr.retain(|b| *b != id);
    }
    !stays
}

/// Gives the partition the first replica that is in sync and may lead, or none. Always a new leader epoch.
fn elect(partition: &mut PartitionImage, eligible: impl Fn(BrokerId) -> bool) {
    partition.leader = partition.replicas.iter().copied().find(|b| partition.isr.contains(b) && eligible(*b));
    partition.leader_epoch = partition.leader_epoch.plus(1);
}

/// Calls `change` for every partition; where it says that it changed it, the partition epoch rises.
fn change_partitions(
    image: &mut MetadataImage,
    mut change: impl FnMut(&mut PartitionImage, &dyn Fn(BrokerId) -> bool) -> bool,
) {
    let brokers = image.brokers.clone();
    let eligible = |id: BrokerId| brokers.get(&id).is_some_and(|b| !b.fenced);
    let mut changed: Vec<TopicImage> = Vec::new();
    for topic in image.topics.by_name.values() {
        let mut copy: Option<TopicImage> = None;
        for (i, partition) in topic.partitions.iter().enumerate() {
            let mut next = partition.clone();
            if change(&mut next, &eligible) {
                next.partition_epoch += 1;
                copy.get_or_insert_with(|| TopicImage::clone(topic)).partitions[i] = next;
            }
        }
        changed.extend(copy);
    }
    for topic in changed {
        put_topic(image, topic);
    }
}

// ---- topics ---------------------------------------------------------------------------------------------------------

fn put_topic(image: &mut MetadataImage, topic: TopicImage) {
    let topic = Arc::new(topic);
    let topics = Arc::make_mut(&mut image.topics);
    topics.by_name.insert(topic.name.clone(), topic.clone());
    topics.by_id.insert(topic.id, topic);
}

fn create_topic(
    image: &mut MetadataImage,
    name: &TopicName,
    id: TopicId,
    assignment: &[Vec<BrokerId>],
    config: &BTreeMap<String, String>,
    now_ms: i64,
) -> Result<Response, Refusal> {
    if let Some(there) = image.topics.by_name.get(name) {
        // The same command twice: the answer to the first was lost.
        return if there.id == id { Ok(Response::Done) } else { Err(Refusal::TopicExists(name.clone())) };
    }
    if let Some(other) = image.topics.by_id.get(&id) {
        return Err(Refusal::TopicExists(other.name.clone()));
    }
    check_partition_count(assignment.len())?;
    check_config(config)?;
    let partitions = new_partitions(image, assignment, None)?;
    put_topic(image, TopicImage { name: name.clone(), id, partitions, overrides: config.clone(), created_ms: now_ms });
    Ok(Response::Done)
}

fn delete_topic(image: &mut MetadataImage, id: TopicId) -> Result<Response, Refusal> {
    let topics = Arc::make_mut(&mut image.topics);
    let topic = topics.by_id.remove(&id).ok_or(Refusal::UnknownTopic(id))?;
    topics.by_name.remove(&topic.name);
    Ok(Response::Done)
}

fn alter_topic(
    image: &mut MetadataImage,
    id: TopicId,
    set: &BTreeMap<String, String>,
    reset: &[String],
    add_partitions: &[Vec<BrokerId>],
    expected_partitions: i32,
) -> Result<Response, Refusal> {
    let mut topic = TopicImage::clone(image.topics.by_id.get(&id).ok_or(Refusal::UnknownTopic(id))?);
    if !add_partitions.is_empty() {
        if topic.partition_count() != expected_partitions {
            return Err(Refusal::InvalidPartitions(format!(
                "the topic has {} partitions by now, not {expected_partitions}; look again",
                topic.partition_count()
            )));
        }
        check_partition_count(topic.partitions.len() + add_partitions.len())?;
        let replicas = topic.partitions.first().map(|p| p.replicas.len());
        topic.partitions.extend(new_partitions(image, add_partitions, replicas)?);
    }
    for key in reset {
        key.parse::<ConfigKey>()?;
        topic.overrides.remove(key);
    }
    topic.overrides.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    check_config(&topic.overrides)?;
    put_topic(image, topic);
    Ok(Response::Done)
}

fn check_config(overrides: &BTreeMap<String, String>) -> Result<(), Refusal> {
    TopicConfig::with_overrides(&TopicDefaults::default(), overrides)?;
    Ok(())
}

fn check_partition_count(count: usize) -> Result<(), Refusal> {
    if (1..=MAX_PARTITIONS).contains(&count) {
        return Ok(());
    }
    Err(Refusal::InvalidPartitions(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {count}")))
}

fn new_partitions(
    image: &MetadataImage,
    assignment: &[Vec<BrokerId>],
    replicas: Option<usize>,
) -> Result<Vec<PartitionImage>, Refusal> {
    let factor = replicas.or_else(|| assignment.first().map(Vec::len)).unwrap_or(0);
    let mut partitions = Vec::with_capacity(assignment.len());
    for replicas in assignment {
        if replicas.is_empty() || replicas.len() != factor {
            let text = format!("each partition of a topic has the same number of replicas, 1 or more, not {factor}");
            return Err(Refusal::InvalidReplicas(text));
        }
        for (i, id) in replicas.iter().enumerate() {
            if !image.brokers.contains_key(id) {
                return Err(Refusal::UnknownBroker(*id));
            }
            if replicas[..i].contains(id) {
                return Err(Refusal::InvalidReplicas(format!("broker {id} is named twice for one partition")));
            }
        }
        let unfenced = |id: &BrokerId| image.brokers.get(id).is_some_and(|b| !b.fenced);
        // Nothing was acknowledged yet, so any one of them may be the first in-sync replica.
        let mut isr: Vec<BrokerId> = replicas.iter().copied().filter(|id| unfenced(id)).collect();
        let leader = isr.first().copied();
        if isr.is_empty() {
            isr.push(replicas[0]);
        }
        isr.sort_unstable();
        partitions.push(PartitionImage {
            replicas: replicas.clone(),
            isr,
            leader,
            leader_epoch: LeaderEpoch::ZERO,
            partition_epoch: 0,
        });
    }
    Ok(partitions)
}

// ---- partitions -----------------------------------------------------------------------------------------------------

fn alter_partition(
    image: &mut MetadataImage,
    topic: TopicId,
    number: PartitionId,
    (leader_epoch, partition_epoch): (LeaderEpoch, i32),
    isr: &[IsrMember],
) -> Result<Response, Refusal> {
    let mut changed = TopicImage::clone(image.topics.by_id.get(&topic).ok_or(Refusal::UnknownTopic(topic))?);
    let partition = usize::try_from(number.get())
        .ok()
        .and_then(|i| changed.partitions.get_mut(i))
        .ok_or(Refusal::UnknownPartition(number))?;
    if partition.leader_epoch != leader_epoch || partition.partition_epoch != partition_epoch {
        return Err(Refusal::StalePartition {
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
        });
    }
    let mut members: Vec<BrokerId> = isr.iter().map(|m| m.broker).collect();
    members.sort_unstable();
    members.dedup();
    let leader_stays = partition.leader.is_some_and(|leader| members.contains(&leader));
    if !leader_stays || members.len() != isr.len() || members.iter().any(|b| !partition.replicas.contains(b)) {
        let text = "in-sync replicas are replicas of the partition, its leader among them, each named once";
        return Err(Refusal::InvalidReplicas(text.to_owned()));
    }
    for member in isr {
        check_broker_epoch(image, member.broker, member.broker_epoch)?;
        if image.brokers.get(&member.broker).is_some_and(|b| b.fenced) {
            return Err(Refusal::InvalidReplicas(format!("broker {} is fenced", member.broker)));
        }
    }
    partition.isr = members;
    partition.partition_epoch += 1;
    let partition_epoch = partition.partition_epoch;
    put_topic(image, changed);
    Ok(Response::PartitionAltered { partition_epoch })
}

// ---- the rest -------------------------------------------------------------------------------------------------------

fn allocate_producer_ids(
    image: &mut MetadataImage,
    broker: BrokerId,
    broker_epoch: u64,
    count: u32,
) -> Result<Response, Refusal> {
    check_broker_epoch(image, broker, broker_epoch)?;
    let count = count.clamp(1, MAX_PRODUCER_IDS);
    let first = image.next_producer_id;
    let next = first.get().checked_add(i64::from(count)).expect("2^63 ids at a million a block outlast every disk");
    image.next_producer_id = ProducerId::new(next);
    Ok(Response::ProducerIds { first, count })
}

fn set_cluster_config(image: &mut MetadataImage, changes: &BTreeMap<String, Option<String>>) {
    let config = Arc::make_mut(&mut image.cluster_config);
    for (key, value) in changes {
        match value {
            Some(value) => config.insert(key.clone(), value.clone()),
            None => config.remove(key),
        };
    }
}

fn set_feature_level(image: &mut MetadataImage, level: FeatureLevel) -> Result<Response, Refusal> {
    let known = image.brokers.values().map(|b| b.feature_level).min().unwrap_or(FEATURE_LEVEL);
    if level > known {
        return Err(Refusal::FeatureLevel { needed: level, current: known });
    }
    image.feature_level = image.feature_level.max(level);
    Ok(Response::Done)
}

#[cfg(test)]
mod tests;
