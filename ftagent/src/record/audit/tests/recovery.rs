//! What an earlier life left, in whatever state.

use super::*;
use crate::record::audit::{key::PRIVATE, read::Shown};

/// Opens a log, writes down what is found and an entry, and ends.
fn go_on(dir: &Path) {
    let (mut chain, notes) = Chain::open(dir, rules()).unwrap();
    notes.into_iter().for_each(|note| chain.append(&Stamped::new(note, true)));
    add(&mut chain, 1);
    chain.checkpoint();
    chain.flush().unwrap();
}

fn found(dir: &Path, action: &str) -> Option<Shown> {
    let wanted = read::Wanted { action: Some(action.to_owned()), ..read::Wanted::default() };
    read::Reader::new(dir, wanted).next(1).unwrap().pop().map(|(_, line)| line)
}

fn asides(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("aside-")).collect()
}

#[test]
fn a_log_goes_on_over_restarts_without_a_gap() {
    let (_state, dir) = log(3);
    (0..4).for_each(|_| go_on(&dir));
    let report = judge(&dir);
    assert!(report.valid && report.unsigned == 0, "{report:?}");
    assert_eq!(actions(&dir).len(), 7);
    assert_eq!(report.lines, report.last, "numbers have no gap");
}

#[test]
fn a_line_that_was_cut_short_is_cut_off_and_told() {
    let (_state, dir) = log(6);
    let (mut chain, _) = Chain::open(&dir, rules()).unwrap();
    add(&mut chain, 2);
    drop(chain);
    let path = segment(&dir);
    let sound = fs::read(&path).unwrap();
    let last = lines(&path).pop().unwrap().len() + 1;
    let begin = sound.len() - last;
    let zeros = [&sound[..begin], &[0; 100]].concat();
    let half: Vec<Vec<u8>> = (1..last).step_by(7).map(|cut| sound[..sound.len() - cut].to_vec()).collect();
    for torn in half.into_iter().chain([zeros]) {
        fs::write(&path, &torn).unwrap();
        fs::remove_file(dir.join(CHECKPOINTS)).unwrap();
        go_on(&dir);
        let report = judge(&dir);
        assert!(report.valid, "{report:?}");
        let told = found(&dir, "audit.recovered").unwrap();
        let after = told.after.unwrap();
        let lost = &torn[begin..];
        assert_eq!(after["bytes"], lost.len());
        assert_eq!(after["sha256"], line::Hex::of(&[lost]).as_str());
        assert!(asides(&dir).is_empty());
    }
}

#[test]
fn a_file_that_was_only_made_is_no_obstacle() {
    let (_state, dir) = log(3);
    let next = segments::path_of(&dir, judge(&dir).last + 1);
    for text in ["", "{\"v\":1,\"se"] {
        fs::write(&next, text).unwrap();
        go_on(&dir);
        let report = judge(&dir);
        assert!(report.valid && report.segments == 1, "{report:?}");
    }
    assert_eq!(actions(&dir).iter().filter(|action| *action == "audit.recovered").count(), 1);
}

/// What is said of it, and what is done to a log.
type Damage = (&'static str, fn(&Path));

#[test]
fn a_log_that_does_not_verify_is_kept_aside_and_named() {
    let damage: [Damage; 5] = [
        ("its bytes are not what its hash says", |dir| {
            let path = segment(dir);
            let text = fs::read_to_string(&path).unwrap().replacen("192.0.2.3", "192.0.2.4", 1);
            fs::write(path, text).unwrap();
        }),
        ("had been signed", |dir| {
            let path = segment(dir);
            let kept = lines(&path)[..4].join("\n") + "\n";
            fs::write(path, kept).unwrap();
        }),
        ("its files are gone", |dir| fs::remove_file(segment(dir)).unwrap()),
        ("its key is gone", |dir| fs::remove_file(dir.join(PRIVATE)).unwrap()),
        ("its key cannot be used", |dir| fs::write(dir.join(PRIVATE), "no key").unwrap()),
    ];
    for (why, damage) in damage {
        let (_state, dir) = log(12);
        damage(&dir);
        let before: Vec<Vec<u8>> = segments::list(&dir).unwrap().iter().map(|path| fs::read(path).unwrap()).collect();
        go_on(&dir);
        let told = found(&dir, "audit.restarted").unwrap();
        assert!(told.reason.contains(why), "{why}: {}", told.reason);
        let aside = asides(&dir).pop().unwrap();
        assert!(aside.ends_with(&told.subject) && aside.join(CHECKPOINTS).exists() && aside.join(PUBLIC).exists());
        let kept: Vec<Vec<u8>> = segments::list(&aside).unwrap().iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(kept, before, "{why}: as it was");
        let report = judge(&dir);
        assert!(report.valid && report.complete && report.aside.len() == 1, "{why}: {report:?}");
        if why.starts_with("its bytes") {
            assert_eq!(told.before.unwrap()["seq"], 4, "the last line that is sound");
        }
    }
}

#[test]
fn a_crash_before_the_checkpoints_were_noted_is_made_up_for() {
    let (_state, dir) = log(12);
    let path = dir.join(CHECKPOINTS);
    let all = fs::read_to_string(&path).unwrap();
    let first = all.lines().next().unwrap();
    for left in [format!("{first}\n"), format!("{first}\n{{\"check"), String::new()] {
        fs::write(&path, left).unwrap();
        go_on(&dir);
        assert!(fs::read_to_string(&path).unwrap().starts_with(&all));
        assert!(judge(&dir).valid, "{:?}", judge(&dir));
    }
}

#[test]
fn nobody_else_writes_and_nobody_else_reads() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_state, dir) = log(1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for path in [segment(&dir), dir.join(PRIVATE), dir.join(CHECKPOINTS)] {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let state = dir.parent().unwrap();
    append_offline(state, &rules(), vec![entry(1)]).unwrap();
    let _open = Chain::open(&dir, rules()).unwrap();
    let refused = append_offline(state, &rules(), vec![entry(2)]).unwrap_err().to_string();
    assert!(refused.contains("another ftagent writes the audit log"), "{refused}");
    assert!(judge(&dir).valid);
}

#[test]
fn age_removes_files_and_the_log_says_so() {
    let (_state, dir) = log(0);
    let small = Audit { segment_bytes: 1500, ..rules() };
    let (mut chain, _) = Chain::open(&dir, small.clone()).unwrap();
    for _ in 0..20 {
        add(&mut chain, 1);
        chain.rotate().unwrap();
    }
    drop(chain);
    let before = segments::list(&dir).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let (mut chain, _) = Chain::open(&dir, Audit { retention: Duration::ZERO, ..small }).unwrap();
    chain.retain().unwrap();
    drop(chain);
    let after = segments::list(&dir).unwrap();
    assert_eq!((after.len(), after.last()), (1, before.last()));
    let report = judge(&dir);
    assert!(report.valid && report.complete && report.first > 1 && report.older > 0, "{report:?}");
    let told = found(&dir, "audit.retention").unwrap().after.unwrap();
    assert_eq!(
        (told["from"].as_u64().unwrap(), told["files"].as_array().unwrap().len()),
        (report.first, before.len() - 1)
    );
}

#[test]
fn a_life_that_wrote_no_end_is_known_by_the_next() {
    let last = |actions: &[(&str, bool)]| {
        let state = tempfile::tempdir().unwrap();
        let dir = dir(state.path());
        assert!(read::without_end(&dir).unwrap().is_none(), "there is none yet");
        let (mut chain, _) = Chain::open(&dir, rules()).unwrap();
        for (action, own) in actions {
            let entry = Entry::new(action, "");
            let entry = if *own { entry } else { entry.by(Actor::operator(0, "root")) };
            chain.append(&Stamped::new(entry, false));
        }
        chain.flush().unwrap();
        read::without_end(&dir).unwrap().map(|line| line.action)
    };
    let (start, stop, rule) = (("daemon.start", true), ("daemon.stop", true), ("rule.add", true));
    let export = ("capture.export", false);
    let many = [&[start, rule, stop][..], &[rule; 300]].concat();
    type Case<'a> = (&'a [(&'a str, bool)], Option<&'a str>);
    let cases: [Case<'_>; 8] = [
        (&[], None),
        (&[start, rule, stop], None),
        (&[start, rule, stop, rule], None),
        (&[start, stop, export, export], None),
        (&[start], Some("daemon.start")),
        (&[start, rule, export], Some("rule.add")),
        (&[start, stop, start, rule], Some("rule.add")),
        (&many, Some("rule.add")),
    ];
    for (actions, wanted) in cases {
        assert_eq!(last(actions).as_deref(), wanted, "{actions:?}");
    }
}
