use super::*;
use crate::sys::RealDisk;
use proptest::prelude::*;

fn open(path: &Path) -> Result<(WalFile, Vec<Vec<u8>>), MetadataError> {
    WalFile::open(Arc::new(RealDisk), path.to_owned())
}

fn texts(payloads: &[Vec<u8>]) -> Vec<&str> {
    payloads.iter().map(|p| std::str::from_utf8(p).unwrap()).collect()
}

/// A file with these groups, each synced and marked.
fn written(path: &Path, groups: &[&[&str]]) -> Vec<u8> {
    let (mut wal, _) = open(path).unwrap();
    for group in groups {
        wal.append(group.iter().map(|p| p.as_bytes())).unwrap();
        wal.sync().unwrap();
        wal.mark().unwrap();
    }
    RealDisk.read(path).unwrap()
}

fn put(path: &Path, bytes: &[u8]) {
    RealDisk.write_atomic(path, bytes).unwrap();
}

#[test]
fn records_come_back_in_order_and_a_replacement_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal");
    written(&path, &[&["a", "bb"], &["ccc"]]);
    let (mut wal, payloads) = open(&path).unwrap();
    assert_eq!(texts(&payloads), ["a", "bb", "ccc"]);
    wal.replace([&b"x"[..]]).unwrap();
    wal.append([&b"y"[..]]).unwrap();
    wal.sync().unwrap();
    assert_eq!(texts(&open(&path).unwrap().1), ["x", "y"]);
}

#[test]
fn a_torn_tail_is_cut_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal");
    let sound = written(&path, &[&["a"], &["b"]]);
    let mut tail = Vec::new();
    encode_record(&mut tail, b"never acknowledged", sound.len() as u64);
    for cut in 1..tail.len() {
        put(&path, &[&sound, &tail[..cut]].concat());
        let (wal, payloads) = open(&path).unwrap();
        assert_eq!(texts(&payloads), ["a", "b"], "cut at {cut}");
        drop(wal);
        let after = RealDisk.read(&path).unwrap();
        assert_eq!(&after[..sound.len()], sound);
        let rest = record_at(&after, sound.len()).expect("a mark follows, and nothing else");
        assert!(rest.payload.is_empty() && rest.end == after.len());
    }
    // A torn group: its first record did not reach the disk, its second did. Neither was synced.
    let hole = vec![0; tail.len()];
    put(&path, &[&sound, &hole[..], &tail].concat());
    assert_eq!(texts(&open(&path).unwrap().1), ["a", "b"]);
}

#[test]
fn any_flipped_bit_in_what_was_synced_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal");
    let sound = written(&path, &[&["first", "second"], &["third"]]);
    let mark = RECORD_HEADER_BYTES; // the last mark says that "third" was synced
    for byte in 0..sound.len() - mark {
        let mut bytes = sound.clone();
        bytes[byte] ^= 1;
        put(&path, &bytes);
        match open(&path).err() {
            Some(MetadataError::Corrupt(text)) => assert!(text.contains("wal"), "{text}"),
            // A flipped bit in the version alone is caught by its CRC.
            other => panic!("byte {byte}: {other:?}"),
        }
        assert_eq!(RealDisk.read(&path).unwrap(), bytes, "what is refused is left as it is");
    }
    // Losing the mark itself loses nothing.
    put(&path, &sound[..sound.len() - 1]);
    assert_eq!(texts(&open(&path).unwrap().1), ["first", "second", "third"]);
}

#[test]
fn a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal");
    let mut header = file_header();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    put(&path, &header);
    assert!(matches!(open(&path), Err(MetadataError::NewerVersion(_))));
}

proptest! {
    /// Whatever lies in the file, it is read or refused; and what is read once is read again.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), sound in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal");
        let bytes = if sound { [&file_header()[..], &bytes].concat() } else { bytes };
        put(&path, &bytes);
        if let Ok((_, payloads)) = open(&path) {
            prop_assert_eq!(open(&path).unwrap().1, payloads);
        }
    }

    /// Cut anywhere, a file gives its first records, at least those synced before the cut.
    #[test]
    fn a_cut_file_gives_a_prefix(groups in proptest::collection::vec(proptest::collection::vec("[a-z]{0,20}", 1..4), 1..6), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wal");
        let (mut wal, _) = open(&path).unwrap();
        for group in &groups {
            wal.append(group.iter().map(|p| p.as_bytes())).unwrap();
            wal.sync().unwrap();
            wal.mark().unwrap();
        }
        let bytes = RealDisk.read(&path).unwrap();
        let all: Vec<Vec<u8>> = groups.concat().into_iter().filter(|p| !p.is_empty()).map(String::into_bytes).collect();
        let cut = FILE_HEADER_BYTES + cut.index(bytes.len() - FILE_HEADER_BYTES + 1);
        put(&path, &bytes[..cut]);
        match open(&path) {
            Ok((_, payloads)) => prop_assert!(all.starts_with(&payloads)),
            Err(error) => prop_assert!(matches!(error, MetadataError::Corrupt(_)), "{}", error),
        }
    }
}
