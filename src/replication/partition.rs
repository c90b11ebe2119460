//! What the metadata says of a partition, and what follows from a change of it. Pure.
//!
//! **Invariant**: no clock, no async, no lock; so each rule is tested by comparing command lists.

use crate::types::{BrokerId, LeaderEpoch, PartitionId, TopicConfig, TopicId, TopicName};
use std::collections::BTreeMap;

/// A topic's part of the metadata, as replication needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicAssignment {
    /// Its identity.
    pub id: TopicId,
    /// Its name, which goes into the folder's own description.
    pub name: TopicName,
    /// Its configuration.
    pub config: TopicConfig,
    /// Its partitions, in order from 0.
    pub partitions: Vec<PartitionAssignment>,
}

/// Who holds a partition, and who leads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionAssignment {
    /// The brokers that hold a copy.
    pub replicas: Vec<BrokerId>,
    /// Those whose copy keeps up.
    pub in_sync: Vec<BrokerId>,
    /// The leader, if there is one.
    pub leader: Option<BrokerId>,
    /// The number of its leadership.
    pub leader_epoch: LeaderEpoch,
}

/// What a broker does about a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Make the partition's log, or open the one that is there.
    Create(PartitionId),
    /// Lead it under this epoch: appends carry it.
    Lead(PartitionId, LeaderEpoch),
    /// Stop taking writes.
    Resign(PartitionId),
    /// Take the topic's changed configuration.
    Configure(PartitionId),
    /// Close the log and remove its folder.
    Delete(PartitionId),
}

/// What broker `me` does when a topic goes from `before` (`None`: it was not there, or the broker has just started) to
/// `after` (`None`: it was deleted). Commands come in the order of partitions; of one partition, in the order to act.
#[must_use]
pub fn commands(me: BrokerId, before: Option<&TopicAssignment>, after: Option<&TopicAssignment>) -> Vec<Command> {
    let held = |topic: Option<&TopicAssignment>| -> BTreeMap<PartitionId, PartitionAssignment> {
        let partitions = topic.map_or(&[][..], |t| &t.partitions);
        let numbered = (0..).map(PartitionId::new).zip(partitions);
        numbered.filter(|(_, p)| p.replicas.contains(&me)).map(|(id, p)| (id, p.clone())).collect()
    };
    let (old, new) = (held(before), held(after));
    let mut commands = Vec::new();
    for (&id, partition) in &new {
        let was = old.get(&id);
        if was.is_none() {
            commands.push(Command::Create(id));
        } else if before.map(|t| &t.config) != after.map(|t| &t.config) {
            commands.push(Command::Configure(id));
        }
        let led = was.filter(|p| p.leader == Some(me)).map(|p| p.leader_epoch);
        if partition.leader == Some(me) {
            if led != Some(partition.leader_epoch) {
                commands.push(Command::Lead(id, partition.leader_epoch));
            }
        } else if led.is_some() {
            commands.push(Command::Resign(id));
        }
    }
    commands.extend(old.keys().filter(|id| !new.contains_key(id)).map(|id| Command::Delete(*id)));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ConfigKey, TopicDefaults};

    const ME: BrokerId = BrokerId::new(1);
    const OTHER: BrokerId = BrokerId::new(2);
    const P0: PartitionId = PartitionId::new(0);
    const P1: PartitionId = PartitionId::new(1);

    fn topic(partitions: &[(BrokerId, i32)]) -> TopicAssignment {
        TopicAssignment {
            id: TopicId::from_random([1; 16]),
            name: TopicName::new("games").unwrap(),
            config: TopicConfig::new(&TopicDefaults::default()),
            partitions: partitions
                .iter()
                .map(|&(leader, epoch)| PartitionAssignment {
                    replicas: vec![ME, OTHER],
                    in_sync: vec![leader],
                    leader: Some(leader),
                    leader_epoch: LeaderEpoch::new(epoch),
                })
                .collect(),
        }
    }

    #[test]
    fn a_new_topic_is_created_and_led() {
        let made = commands(ME, None, Some(&topic(&[(ME, 0), (OTHER, 0)])));
        assert_eq!(made, [Command::Create(P0), Command::Lead(P0, LeaderEpoch::new(0)), Command::Create(P1)]);
    }

    #[test]
    fn nothing_follows_from_no_change() {
        assert_eq!(commands(ME, Some(&topic(&[(ME, 3)])), Some(&topic(&[(ME, 3)]))), []);
    }

    #[test]
    fn leadership_moves() {
        let (before, after) = (topic(&[(ME, 3), (OTHER, 3)]), topic(&[(OTHER, 4), (ME, 4)]));
        assert_eq!(
            commands(ME, Some(&before), Some(&after)),
            [Command::Resign(P0), Command::Lead(P1, LeaderEpoch::new(4))]
        );
        let renewed = commands(ME, Some(&topic(&[(ME, 3)])), Some(&topic(&[(ME, 4)])));
        assert_eq!(renewed, [Command::Lead(P0, LeaderEpoch::new(4))]);
    }

    #[test]
    fn configuration_and_new_partitions_and_deletion() {
        let before = topic(&[(ME, 1)]);
        let mut after = topic(&[(ME, 1), (ME, 0)]);
        after.config.set(ConfigKey::Flush, "os").unwrap();
        assert_eq!(
            commands(ME, Some(&before), Some(&after)),
            [Command::Configure(P0), Command::Create(P1), Command::Lead(P1, LeaderEpoch::new(0))]
        );
        assert_eq!(commands(ME, Some(&after), None), [Command::Delete(P0), Command::Delete(P1)]);
    }

    #[test]
    fn what_others_hold_is_not_ours() {
        let mut theirs = topic(&[(OTHER, 0)]);
        theirs.partitions[0].replicas = vec![OTHER];
        assert_eq!(commands(ME, None, Some(&theirs)), []);
    }
}
