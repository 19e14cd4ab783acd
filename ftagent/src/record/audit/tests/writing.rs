//! The thread that writes, on disks that do not always take it.

use std::thread;

use super::*;
use crate::record::audit::diff::{Remembered, changes, flat};

fn start(state: &Path, rules: &Audit) -> AuditLog {
    AuditLog::start(state, rules, || {}).unwrap()
}

/// Waits until the log is as wanted.
fn wait_until(what: &str, wanted: impl Fn() -> bool) {
    for _ in 0..1000 {
        if wanted() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: not within ten seconds");
}

#[test]
fn what_waits_is_on_disk_and_what_does_not_follows() {
    let state = tempfile::tempdir().unwrap();
    let log = start(state.path(), &rules());
    let dir = dir(state.path());
    log.after(entry(0));
    log.before(entry(1)).unwrap();
    assert_eq!(actions(&dir).len(), 2, "what waited is there, and so is what came before it");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let log = log.clone();
            thread::spawn(move || (0..50).for_each(|number| log.before(entry(number)).unwrap()))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    log.stop();
    let report = judge(&dir);
    assert!(report.valid && report.unsigned == 0, "{report:?}");
    assert_eq!(actions(&dir).len(), 402);
    assert_eq!(log.metrics().unwrap().entries, 402);
}

#[test]
fn what_cannot_be_written_is_kept_lost_counted_and_told() {
    let state = tempfile::tempdir().unwrap();
    let dir = dir(state.path());
    fs::write(&dir, "a file in the place of the directory").unwrap();
    let log = start(state.path(), &rules());
    log.before(entry(0)).unwrap();
    let status = log.status().unwrap();
    assert!(status.trouble.is_some_and(|trouble| trouble.contains("audit")), "it is said, and the act is done");
    let refusing = start(state.path(), &Audit { on_failure: OnAuditFailure::Refuse, ..rules() });
    assert!(refusing.before(entry(1)).unwrap_err().contains("`audit.on_failure` is \"refuse\""));
    refusing.stop();
    let many = 40_000;
    for number in 0..many {
        log.after(entry(number));
    }
    wait_until("losses", || log.metrics().unwrap().lost > 0);
    fs::remove_file(&dir).unwrap();
    wait_until("the end of the trouble", || log.status().unwrap().trouble.is_none());
    log.stop();
    let report = judge(&dir);
    assert!(report.valid, "{report:?}");
    let lines = read::Reader::new(&dir, read::Wanted::default()).next(usize::MAX).unwrap();
    let gaps = lines.iter().filter(|(_, line)| line.action == "audit.gap");
    let told: u64 = gaps.map(|(_, line)| line.after.as_ref().unwrap()["lost"].as_u64().unwrap()).sum();
    let written = lines.iter().filter(|(_, line)| line.action == "block.add").count();
    assert_eq!(told, log.metrics().unwrap().lost, "every loss is in the log");
    assert_eq!(written as u64 + told, many as u64 + 1, "what is not there was lost");
}

#[test]
fn a_disk_that_hangs_is_waited_for_once() {
    let state = tempfile::tempdir().unwrap();
    let dir = dir(state.path());
    segments::make_dir(&dir).unwrap();
    // Whoever reads the key waits until somebody writes it: a disk that does not answer.
    let key = dir.join("key.pem");
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
    let log = start(state.path(), &Audit { on_failure: OnAuditFailure::Refuse, ..rules() });
    let begun = std::time::Instant::now();
    for number in 0..40 {
        assert!(log.before(entry(number)).unwrap_err().contains("has not answered for 3 s"));
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "three seconds each would be two minutes");
    // It answers: there is no key, so another log begins, and has all that waited.
    let answer = fs::File::options().write(true).open(&key).unwrap();
    fs::remove_file(&key).unwrap();
    drop(answer);
    wait_until("the disk's answer", || log.metrics().unwrap().entries > 40);
    log.before(entry(40)).unwrap();
    log.stop();
    assert_eq!(actions(&dir).iter().filter(|action| *action == "block.add").count(), 41);
}

#[test]
fn nothing_is_logged_where_nothing_is_to_be() {
    let state = tempfile::tempdir().unwrap();
    let log = start(state.path(), &Audit { enabled: false, ..rules() });
    log.before(entry(0)).unwrap();
    log.after(entry(1));
    log.stop();
    assert!(log.status().is_none() && log.metrics().is_none() && !dir(state.path()).exists());
}

#[test]
fn files_can_only_grow_where_the_file_system_can_say_so() {
    let state = tempfile::tempdir().unwrap();
    let dir = dir(state.path());
    let opened = Chain::open(&dir, Audit { append_only: true, segment_bytes: 1500, ..rules() });
    let (mut chain, _) = opened.unwrap();
    let holds = chain.not_append_only.is_none();
    for _ in 0..12 {
        add(&mut chain, 1);
        chain.rotate().unwrap();
    }
    drop(chain);
    let all = segments::list(&dir).unwrap();
    assert!(all.len() > 1);
    for path in &all {
        let cut = fs::File::options().write(true).open(path);
        assert_eq!(cut.is_err(), holds, "only to append");
        assert_eq!(fs::rename(path, path.with_extension("moved")).is_err(), holds);
    }
    if !holds {
        crate::skipped::skip(
            "audit: files that can only grow",
            "the file system has no append-only flag, or this process may not set it",
        );
        return;
    }
    // A line that was cut short is cut off all the same: whoever set the flag can clear it.
    let newest = all.last().unwrap();
    let file = fs::File::options().append(true).open(newest).unwrap();
    segments::write_some(&file, b"{\"v\":1,\"seq\":", &mut 0).unwrap();
    drop(Chain::open(&dir, rules()).unwrap());
    assert!(judge(&dir).valid);
    all.iter().for_each(|path| release(path).unwrap());
}

#[test]
fn a_change_of_configuration_is_told_by_key_without_secrets() {
    let before = flat(&json!({
        "lists": { "allow": ["192.0.2.1"] },
        "s3": { "secret_key": "xyz", "endpoint": "https://ann:pw@example.org/x", "empty_token": "" },
        "feeds": [{ "name": "a", "path": "/x" }],
    }));
    let after = flat(&json!({
        "lists": { "allow": ["192.0.2.1", "192.0.2.2"] },
        "s3": { "secret_key": "xyw", "endpoint": "https://ann:other@example.org/x", "empty_token": "" },
        "feeds": [{ "name": "b", "path": "/x" }],
        "more": 1,
    }));
    let dir = tempfile::tempdir().unwrap();
    Remembered::save(dir.path(), &before).unwrap();
    let kept = fs::read_to_string(dir.path().join("config.json")).unwrap();
    assert!(!kept.contains("xyz") && !kept.contains("pw@"), "{kept}");
    let remembered = Remembered::load(dir.path()).unwrap();
    for (old, new) in [changes(&before, &after), remembered.changes(&after)] {
        let names: Vec<&str> = new.keys().map(String::as_str).collect();
        assert_eq!(names, ["feeds[0].name", "lists.allow", "more", "s3.endpoint", "s3.secret_key"]);
        assert_eq!((&old["feeds[0].name"], &new["feeds[0].name"]), (&json!("a"), &json!("b")));
        assert_eq!((&old["s3.secret_key"], &new["s3.secret_key"]), (&json!("***"), &json!("***")));
        assert_eq!(new["s3.endpoint"], "https://***@example.org/x");
        assert!(!old.contains_key("more"));
    }
    let same = remembered.changes(&before);
    assert!(same.0.is_empty() && same.1.is_empty(), "{same:?}");
}
