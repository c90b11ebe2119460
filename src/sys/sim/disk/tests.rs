//! What the twin must lose, and what it must keep.

use super::*;

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn write(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(path(name), OpenMode::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// Runs one history over many seeds, cuts the power, and gives what each seed left of `/f`.
fn survivors(history: impl Fn(&SimDisk, &dyn Disk)) -> BTreeSet<Option<Vec<u8>>> {
    let after = |seed| {
        let hardware = SimDisk::new(seed);
        let disk = hardware.mount();
        history(&hardware, &*disk);
        hardware.power_cut();
        hardware.mount().read(path("/f")).ok()
    };
    (0..300).map(after).collect()
}

#[test]
fn what_was_synced_always_survives() {
    let left = survivors(|_, disk| {
        write(disk, "/f", b"kept").sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
    });
    assert_eq!(left, [Some(b"kept".to_vec())].into());
}

#[test]
fn what_was_not_synced_may_go_and_may_stay() {
    let left = survivors(|_, disk| {
        write(disk, "/f", b"old").sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        write(disk, "/f", b"new");
    });
    assert_eq!(left, [Some(b"new".to_vec()), Some(b"old".to_vec())].into());
}

#[test]
fn a_long_write_is_torn_between_any_two_sectors() {
    let left = survivors(|_, disk| {
        write(disk, "/f", &[1; 1024]).sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        write(disk, "/f", &[2; 1024]);
    });
    let firsts: BTreeSet<(u8, u8)> = left.iter().flatten().map(|bytes| (bytes[0], bytes[512])).collect();
    assert_eq!(firsts, [(1, 1), (1, 2), (2, 1), (2, 2)].into());
    for bytes in left.iter().flatten() {
        assert!(bytes[..512].iter().all(|b| *b == bytes[0]), "a sector is whole");
    }
}

#[test]
fn a_sector_may_survive_as_it_was_in_between() {
    let left = survivors(|_, disk| {
        let file = write(disk, "/f", b"1");
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        file.write_all_at(b"2", 0).unwrap();
        file.write_all_at(b"3", 0).unwrap();
    });
    assert_eq!(left, ["1", "2", "3"].map(|text| Some(text.into())).into());
}

#[test]
fn an_append_that_was_not_synced_leaves_any_length_and_zeros_where_bytes_are_missing() {
    let left = survivors(|_, disk| {
        let file = write(disk, "/f", &[1; 600]);
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        file.write_all_at(&[2; 2000], 600).unwrap();
    });
    let lengths: BTreeSet<usize> = left.iter().flatten().map(Vec::len).collect();
    assert_eq!(lengths, [600, 1024, 1536, 2048, 2560, 2600].into());
    for bytes in left.iter().flatten() {
        assert!(bytes[..600].iter().all(|b| *b == 1));
        assert!(bytes[600..].iter().all(|b| *b == 2 || *b == 0));
    }
    assert!(left.iter().flatten().any(|bytes| bytes.len() == 2600 && bytes[2599] == 0));
}

#[test]
fn a_cut_length_may_come_back_until_it_is_synced() {
    let cut = |disk: &dyn Disk| {
        let file = write(disk, "/f", b"longer");
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        file.set_len(4).unwrap();
        file
    };
    let left = survivors(|_, disk| drop(cut(disk)));
    assert!(left.contains(&Some(b"longer".to_vec())) && left.contains(&Some(b"long".to_vec())), "{left:?}");
    let left = survivors(|_, disk| cut(disk).sync_data().unwrap());
    assert_eq!(left, [Some(b"long".to_vec())].into());
}

#[test]
fn a_new_name_needs_its_folder_synced() {
    let left = survivors(|_, disk| write(disk, "/f", b"x").sync_all().unwrap());
    assert_eq!(left, [None, Some(b"x".to_vec())].into());
}

#[test]
fn a_rename_may_be_undone_but_never_loses_both_names() {
    let rename = |disk: &dyn Disk| {
        write(disk, "/f", b"old").sync_all().unwrap();
        disk.sync_dir(path("/")).unwrap();
        write(disk, "/g", b"new").sync_all().unwrap();
        disk.rename(path("/g"), path("/f")).unwrap();
        assert_eq!(disk.read(path("/f")).unwrap(), b"new");
    };
    let left = survivors(|_, disk| rename(disk));
    assert_eq!(left, [Some(b"new".to_vec()), Some(b"old".to_vec())].into());
    let left = survivors(|_, disk| {
        rename(disk);
        disk.sync_dir(path("/")).unwrap();
    });
    assert_eq!(left, [Some(b"new".to_vec())].into());
}

#[test]
fn a_removal_may_be_undone() {
    let left = survivors(|_, disk| {
        write(disk, "/f", b"x").sync_all().unwrap();
        disk.sync_dir(path("/")).unwrap();
        disk.remove_file(path("/f")).unwrap();
        assert!(!disk.exists(path("/f")));
    });
    assert_eq!(left, [None, Some(b"x".to_vec())].into());
}

#[test]
fn an_atomic_write_leaves_the_old_or_the_new_one() {
    for n in 1..12 {
        let left = survivors(|hardware, disk| {
            disk.write_atomic(path("/f"), b"old").unwrap();
            hardware.power_cut_after(n);
            let done = disk.write_atomic(path("/f"), &[b'n'; 2000]).is_ok();
            assert_eq!(hardware.is_down(), !done);
        });
        for bytes in left {
            let bytes = bytes.expect("one of them is there");
            assert!(bytes == b"old" || bytes == [b'n'; 2000], "{bytes:?} after {n} changes");
        }
    }
}

#[test]
fn a_folder_whose_name_was_not_synced_takes_its_files_along() {
    let after = |sync_root: bool, seed| {
        let hardware = SimDisk::new(seed);
        let disk = hardware.mount();
        disk.create_dir_all(path("/a/b")).unwrap();
        write(&*disk, "/a/b/f", b"x").sync_all().unwrap();
        disk.sync_dir(path("/a/b")).unwrap();
        disk.sync_dir(path("/a")).unwrap();
        if sync_root {
            disk.sync_dir(path("/")).unwrap();
        }
        hardware.power_cut();
        hardware.mount().exists(path("/a/b/f"))
    };
    assert!((0..50).all(|seed| after(true, seed)));
    assert!((0..50).any(|seed| !after(false, seed)));
}

#[test]
fn a_failed_sync_loses_its_data_at_the_cut_though_later_syncs_succeed() {
    let history = |disk: &dyn Disk, hardware: &SimDisk| {
        let file = write(disk, "/f", b"old");
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        hardware.inject(DiskFault::new(DiskOperation::Sync, "f"));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
        file.sync_data().unwrap();
        assert_eq!(disk.read(path("/f")).unwrap(), b"new", "readers see it");
        file
    };
    let left = survivors(|hardware, disk| drop(history(disk, hardware)));
    assert!(left.contains(&Some(b"old".to_vec())), "{left:?}");
    let left = survivors(|hardware, disk| {
        let file = history(disk, hardware);
        file.write_all_at(b"new", 0).unwrap();
        file.sync_data().unwrap();
    });
    assert_eq!(left, [Some(b"new".to_vec())].into(), "written again and synced, it is durable");
}

#[test]
fn a_killed_process_leaves_all_it_wrote_and_can_do_nothing_more() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let lock = disk.lock_dir(path("/")).unwrap();
    assert_eq!(disk.lock_dir(path("/")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    let file = write(&*disk, "/f", b"never synced");
    hardware.process_crash();
    assert!(hardware.is_down());
    assert!(file.read_at(&mut [0], 0).is_err() && file.sync_data().is_err() && file.write_all_at(b"x", 0).is_err());
    assert!(disk.open(path("/f"), OpenMode::Read).is_err() && !disk.exists(path("/f")));

    let disk = hardware.mount();
    assert_eq!(disk.read(path("/f")).unwrap(), b"never synced");
    let _again = disk.lock_dir(path("/")).unwrap();
    drop(lock); // the old machine's lock lets nothing go that is the new one's
    assert!(disk.lock_dir(path("/")).is_err());
}

#[test]
fn a_full_disk_takes_what_fits() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    hardware.set_capacity(Some(1000));
    let file = write(&*disk, "/f", &[1; 900]);
    assert_eq!(disk.free_space(path("/")).unwrap(), 100);
    let error = file.write_all_at(&[2; 300], 800).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 1000);
    file.write_all_at(&[3; 900], 0).unwrap();
    hardware.set_capacity(None);
    file.write_all_at(&[2; 300], 800).unwrap();
}

#[test]
fn faults_come_where_and_when_they_were_asked_for() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let (log, index) = (write(&*disk, "/1.log", b"abc"), write(&*disk, "/1.index", b"x"));
    hardware.inject(DiskFault::new(DiskOperation::Write, ".log").skip(1).times(2).errno(ENOSPC));
    assert!(index.write_all_at(b"y", 0).is_ok());
    let results: Vec<bool> = (0..4).map(|_| log.write_all_at(b"d", 0).is_ok()).collect();
    assert_eq!(results, [true, false, false, true]);
    assert_eq!(hardware.faults_hit(), 2);
    hardware.inject(DiskFault::new(DiskOperation::Read, ".log"));
    assert!(log.read_at(&mut [0], 0).is_err());

    hardware.flip_bit(path("/1.log"), 1, 0);
    assert_eq!(disk.read(path("/1.log")).unwrap(), b"dcc");
    assert_eq!(hardware.files(), [(PathBuf::from("/1.index"), 1), (PathBuf::from("/1.log"), 3)]);
}

#[test]
fn folders_behave_as_the_real_ones() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    disk.create_dir_all(path("/a/b")).unwrap();
    disk.create_dir_all(path("/a/b")).unwrap();
    write(&*disk, "/a/z", b"");
    let names: Vec<_> = disk.read_dir(path("/a")).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect();
    assert_eq!(names, [("b".to_owned(), true), ("z".to_owned(), false)]);
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(disk.rename(path("/a/b"), path("/a/z"))), io::ErrorKind::NotADirectory);
    assert_eq!(kind(disk.rename(path("/x"), path("/y"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.remove_file(path("/a"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.sync_dir(path("/x"))), io::ErrorKind::NotFound);
    assert!(disk.open(path("/x/y"), OpenMode::Create).is_err());
    let read_only = disk.open(path("/a/z"), OpenMode::Read).unwrap();
    assert_eq!(kind(read_only.write_all_at(b"x", 0)), io::ErrorKind::PermissionDenied);

    let open = write(&*disk, "/a/b/f", b"still readable");
    disk.rename(path("/a"), path("/c")).unwrap();
    disk.remove_dir_all(path("/c")).unwrap();
    assert_eq!(disk.read_dir(path("/")).unwrap(), []);
    let mut buf = [0; 14];
    open.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"still readable", "a file without a name lives while it is open");
}
