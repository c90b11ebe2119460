use super::*;
use crate::sys::{RealDisk, sim::SimDisk};

fn node(n: i32) -> BrokerId {
    BrokerId::new(n)
}

fn open(path: &Path) -> Result<DataFolder, DataFolderError> {
    DataFolder::open(&Sys::real(), path, node(1))
}

#[test]
fn a_folder_is_formatted_once() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep").join("data");
    let first = open(&path).unwrap();
    assert!(first.created());
    let identity = first.identity().clone();
    assert_ne!(identity.secret, [0; 32]);
    assert!(!format!("{identity:?}").contains("secret"));
    drop(first);
    let second = open(&path).unwrap();
    assert!(!second.created() && *second.identity() == identity);
    let other = open(&root.path().join("other")).unwrap();
    assert!(other.identity().cluster_id != identity.cluster_id && other.identity().secret != identity.secret);
}

#[cfg(unix)]
#[test]
fn the_secret_is_for_this_user_only_whatever_the_umask_and_after_a_copy() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let root = tempfile::tempdir().unwrap();
    let meta = root.path().join(META);
    let mode = || fs::metadata(&meta).unwrap().permissions().mode() & 0o777;
    drop(open(root.path()).unwrap());
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&meta, fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(root.path()).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn what_may_not_be_used_is_refused_in_one_line() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let refused = |path: &Path| {
        let error = open(path).err().expect("it is refused");
        let text = error.to_string();
        assert!(!text.contains('\n') && text.contains(&path.display().to_string()), "{text}");
        error
    };
    let held = open(&path).unwrap();
    assert!(matches!(refused(&path), DataFolderError::InUse(_)));
    drop(held);
    assert!(matches!(
        DataFolder::open(&Sys::real(), &path, node(2)).err(),
        Some(DataFolderError::OtherNode { found, .. }) if found == node(1)
    ));

    let strange = root.path().join("strange");
    RealDisk.create_dir_all(&strange).unwrap();
    RealDisk.write_atomic(&strange.join("thesis.doc"), b"years of work").unwrap();
    let before = RealDisk.read_dir(&strange).unwrap();
    assert!(matches!(refused(&strange), DataFolderError::NotOurs { found, .. } if found == "thesis.doc"));
    assert_eq!(RealDisk.read_dir(&strange).unwrap(), before, "it is left as it was");

    let file = root.path().join("file");
    RealDisk.write_atomic(&file, b"").unwrap();
    refused(&file);
    refused(&file.join("below"));
}

#[test]
fn damage_and_newer_versions_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    drop(open(&path).unwrap());
    let meta = path.join(META);
    let sound = RealDisk.read(&meta).unwrap();
    for byte in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[byte] ^= 1;
        RealDisk.write_atomic(&meta, &bytes).unwrap();
        assert!(matches!(open(&path).err(), Some(DataFolderError::Corrupt { .. })), "byte {byte}");
        RealDisk.write_atomic(&meta, &sound[..byte]).unwrap();
        assert!(matches!(open(&path).err(), Some(DataFolderError::Corrupt { .. })), "cut at {byte}");
    }
    let mut newer = sound.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    newer.truncate(40);
    RealDisk.write_atomic(&meta, &newer).unwrap();
    assert!(matches!(open(&path).err(), Some(DataFolderError::NewerVersion { found: 2, known: 1, .. })));
}

#[test]
fn a_format_that_was_cut_off_is_done_again_but_lost_files_are_not_replaced() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    for folder in ["metadata", "topics"] {
        RealDisk.create_dir_all(&path.join(folder)).unwrap();
    }
    RealDisk.write_atomic(&path.join(META_TEMPORARY), b"SLUI").unwrap();
    assert!(open(&path).unwrap().created());

    RealDisk.create_dir_all(&path.join("topics").join("x")).unwrap();
    let lost_log = open(&path).err();
    assert!(matches!(lost_log, Some(DataFolderError::Corrupt { .. })), "{lost_log:?}");
    RealDisk.remove_file(&path.join(META)).unwrap();
    let lost_identity = open(&path).err();
    assert!(matches!(lost_identity, Some(DataFolderError::Corrupt { .. })), "{lost_identity:?}");
}

#[tokio::test]
async fn a_formatted_folder_outlives_a_power_cut_however_deep_it_lies() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let path = Path::new("/srv/games/sluice/data");
        let machine = || crate::sys::sim::machine(&disk, seed, 0);
        let identity = DataFolder::open(&machine(), path, node(1)).unwrap().identity().clone();
        disk.power_cut();
        let after = DataFolder::open(&machine(), path, node(1)).unwrap();
        assert!(!after.created(), "seed {seed}: formatted again, so the first was lost");
        assert_eq!(*after.identity(), identity, "seed {seed}");
    }
}
