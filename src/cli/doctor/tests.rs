use super::*;
use crate::codec::{BatchBuilder, Compression};
use crate::sys::RealDisk;
use crate::types::{LeaderEpoch, Record};

/// A batch of two records.
fn batch(base: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Offset::new(base), LeaderEpoch::new(0));
    for text in ["a", "b"] {
        let value = Some(Bytes::from_static(text.as_bytes()));
        builder.push(1, &Record { timestamp_ms: None, key: None, value, headers: Vec::new() });
    }
    builder.finish(Compression::None).to_vec()
}

/// What is seen in a folder with these segments.
fn examine_files(files: &[(i64, Vec<u8>)]) -> Findings {
    let folder = tempfile::tempdir().unwrap();
    for (base, bytes) in files {
        let path = folder.path().join(format!("{base:020}.log"));
        RealDisk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
    examine(&RealDisk, folder.path())
}

#[test]
fn a_partition_that_is_well() {
    let zeros = vec![0; 5000]; // room that is taken in advance
    let found = examine_files(&[(0, [batch(0), batch(2)].concat()), (4, [batch(4), zeros].concat())]);
    assert_eq!((found.records, found.batches, found.segments), (6, 3, 2));
    assert_eq!((found.first_offset, found.next_offset), (Some(Offset::new(0)), Some(Offset::new(6))));
    assert_eq!(state(&found), "well", "{found:?}");
    assert_eq!(examine_files(&[(7, Vec::new())]).next_offset, Some(Offset::new(7)));
}

#[test]
fn a_torn_end_is_cut_off_and_no_damage() {
    let torn = &batch(2)[..70];
    let found = examine_files(&[(0, [&batch(0), torn, &[0; 100]].concat())]);
    assert_eq!((state(&found), found.records), ("not closed", 2), "{found:?}");
}

#[test]
fn a_flipped_bit_in_front_of_what_was_acknowledged_is_damage() {
    let mut bytes = [batch(0), batch(2), batch(4)].concat();
    let middle = batch(0).len() + 70;
    bytes[middle] ^= 1;
    let found = examine_files(&[(0, bytes)]);
    assert_eq!(state(&found), "damaged", "{found:?}");
    assert!(found.damage[0].contains("CRC"), "{found:?}");
    // The same in a segment that others follow.
    let mut last = batch(0);
    last[70] ^= 1;
    assert_eq!(state(&examine_files(&[(0, last), (2, batch(2))])), "damaged");
}

#[test]
fn offsets_that_go_back_are_damage() {
    assert_eq!(state(&examine_files(&[(0, [batch(2), batch(0)].concat())])), "damaged");
    assert_eq!(state(&examine_files(&[(0, [batch(0), batch(2)].concat()), (3, Vec::new())])), "damaged");
}
