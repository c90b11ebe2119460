use super::*;
use crate::view::store::MemoryStore;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn open(dir: &Path) -> SledStore {
    SledStore::open(&Sys::real(), dir, 1 << 20).unwrap()
}

fn rows(store: &dyn ViewStore, prefix: &[u8], from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    store
        .scan(prefix, from, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

fn key(n: u32) -> Vec<u8> {
    let mut key = format!("{}key-{n}", n % 3).into_bytes();
    if n.is_multiple_of(5) {
        // As large numbers, or negative ones, are.
        key.truncate(1);
        key.extend_from_slice(&[u8::MAX; 9][..n as usize % 10]);
        key.extend_from_slice(&n.to_be_bytes()[3..]);
    }
    key
}

/// Rows by number, with the length of their value; `None` removes it.
fn changes() -> impl Strategy<Value = Vec<(u32, Option<usize>)>> {
    let value = proptest::option::weighted(0.7, prop_oneof![8 => 0..300_usize, 1 => 0..5000_usize]);
    proptest::collection::vec((0..150_u32, value), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn it_holds_what_the_store_in_memory_holds(turns in proptest::collection::vec(changes(), 1..25)) {
        let (sys, folder) = (Sys::real(), tempfile::tempdir().unwrap());
        let twin = MemoryStore::open(sys.disk.clone(), folder.path().join("twin"));
        let store = open(&folder.path().join("sled"));
        for (turn, some) in turns.into_iter().enumerate() {
            let value = |len: usize| vec![turn as u8; len];
            let changes: Changes = some.into_iter().map(|(n, len)| (key(n), len.map(value))).collect();
            twin.apply_batch(changes.clone()).unwrap();
            store.apply_batch(changes).unwrap();
            for (prefix, from) in [("", ""), ("1", ""), ("1key-1", ""), ("1", "1key-33"), ("1", "2"), ("9", "")] {
                let (prefix, from) = (prefix.as_bytes(), from.as_bytes());
                prop_assert_eq!(rows(&store, prefix, from), rows(&twin, prefix, from));
            }
            for n in (0..150).step_by(7) {
                prop_assert_eq!(store.get(&key(n)).unwrap(), twin.get(&key(n)).unwrap());
            }
        }
        store.close();
    }
}

/// sled's way back from a page's lowest key passes over what lies between that, less one, and the lowest key.
#[test]
fn keys_of_the_highest_bytes_are_found_on_the_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let key = |partition: u8, n: u16| [&[partition][..], &[u8::MAX; 6], &n.to_be_bytes()].concat();
    // So many that some page begins where a partition does.
    let partitions = || 1..250_u8;
    let count = |partition: u8| 100 + u16::from(partition);
    for partition in partitions() {
        let rows = (0..count(partition)).map(|n| (key(partition, n), Some(vec![partition; 100])));
        store.apply_batch(rows.collect()).unwrap();
    }
    for partition in partitions() {
        assert_eq!(rows(&store, &[partition], &[]).len(), usize::from(count(partition)), "partition {partition}");
        assert_eq!(store.get(&[partition]).unwrap(), None, "before partition {partition}");
        let last = count(partition) - 1;
        assert_eq!(store.get(&key(partition, last)).unwrap(), Some(vec![partition; 100]), "{partition}");
    }
}

proptest! {
    #[test]
    fn keys_keep_their_order_and_their_prefixes(a in keys(), b in keys()) {
        prop_assert_eq!(a.cmp(&b), escape(&a).cmp(&escape(&b)));
        prop_assert_eq!(unescape(&escape(&a)).into_owned(), a.clone());
        prop_assert!(!escape(&a).windows(4).any(|four| four == [u8::MAX; 4]));
        let longer = [&a[..], &b[..]].concat();
        prop_assert!(escape(&longer).starts_with(&escape(&a)));
    }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![3 => Just(u8::MAX), 1 => 0..3_u8, 1 => any::<u8>()], 0..12)
}

#[test]
fn a_scan_gives_each_row_once_while_runs_are_divided() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let key = |n: usize| format!("key-{n:04}").into_bytes();
    let put = |numbers: &mut dyn Iterator<Item = usize>| {
        store.apply_batch(numbers.map(|n| (key(n), Some(vec![7; 100]))).collect()).unwrap();
    };
    put(&mut (0..2000).step_by(2));
    let mut seen = BTreeMap::<Vec<u8>, usize>::new();
    store
        .scan(&[], &[], &mut |row, _| {
            *seen.entry(row.to_vec()).or_default() += 1;
            // Every run around here is divided, the one that is being read too.
            let n: usize = std::str::from_utf8(&row[4..]).unwrap().parse().unwrap();
            if n.is_multiple_of(2) {
                put(&mut (n.saturating_sub(20)..n + 40).filter(|n| n % 2 == 1));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(seen.values().all(|times| *times == 1));
    assert!((0..2000).step_by(2).all(|n| seen.contains_key(&key(n))));
    store.close();
}

#[test]
fn rows_that_are_not_in_runs_are_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("view");
    let db = sled::open(&dir).unwrap();
    db.insert(b"V", &[1]).unwrap();
    db.flush().unwrap();
    drop(db);
    let store = open(&dir);
    assert_eq!(store.get(b"V").unwrap(), None);
    store.close();
}

#[test]
fn a_damaged_run_is_told_and_the_next_opening_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("view");
    let store = open(&dir);
    store.apply_batch(Changes::from([(b"k".to_vec(), Some(b"v".to_vec()))])).unwrap();
    store.with(|Open { runs, .. }| Ok(runs.insert(b"k", b"\xff").map(drop)?)).unwrap();
    assert!(matches!(store.get(b"k"), Err(ViewError::Store(reason)) if reason.contains("damaged")));
    store.close();
    let store = open(&dir);
    assert_eq!(store.get(b"k").unwrap(), None);
    store.close();
}
