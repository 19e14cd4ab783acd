//! Everything that can be done to a log without its key.

use proptest::prelude::*;

use super::*;
use crate::record::audit::{
    checkpoint::Checkpoint,
    key::Key,
    line::{Hex, Line, seal},
    walk::Walk,
};

/// Returns the first fault of some bytes that stand in place of a segment.
fn fault(path: &Path, bytes: &[u8]) -> Option<Fault> {
    let key = read_public(&path.with_file_name(PUBLIC)).unwrap();
    Walk::new(&key).bytes(path, bytes).err()
}

#[test]
fn a_log_that_nobody_touched_is_sound() {
    let (_state, dir) = log(12);
    let report = judge(&dir);
    assert!(report.valid && report.complete, "{report:?}");
    // 12 entries, the checkpoint at the beginning, one after every five lines, and one at the end.
    assert_eq!((report.lines, report.checkpoints, report.segments), (16, 4, 1));
    assert_eq!((report.first, report.last, report.unsigned, report.compared), (1, 16, 0, 4));
    assert!(report.from.ends_with('Z') && report.from <= report.to, "{report:?}");
}

#[test]
fn the_form_is_the_one_that_is_documented() {
    let (_state, dir) = log(1);
    let text = lines(&segment(&dir)).remove(1);
    let begin = "{\"v\":1,\"seq\":2,\"time\":\"";
    assert!(text.starts_with(begin), "{text}");
    let (hashed, hash) = text.rsplit_once(",\"hash\":\"").unwrap();
    assert_eq!(Hex::of(&[hashed.as_bytes(), b"}"]).as_str(), hash.strip_suffix("\"}").unwrap());
    let members: Vec<&str> =
        ["actor", "action", "subject", "reason", "before", "after", "result", "late", "prev"].into();
    let places: Vec<Option<usize>> = members.iter().map(|name| text.find(&format!(",\"{name}\":"))).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{text}");
}

#[test]
fn every_byte_that_differs_is_found_in_its_line() {
    let (_state, dir) = log(12);
    let path = segment(&dir);
    let sound = fs::read(&path).unwrap();
    assert_eq!(fault(&path, &sound), None);
    let mut line = 1;
    for (at, byte) in sound.iter().enumerate() {
        for mask in [1 << (at % 8), 0x20, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= mask;
            let found = fault(&path, &bytes).unwrap_or_else(|| panic!("byte {at}, mask {mask:#x}: not found"));
            assert_eq!(found.line, line, "byte {at}, mask {mask:#x}: {found:?}");
        }
        line += u64::from(*byte == b'\n');
    }
}

#[test]
fn every_byte_that_is_put_in_or_taken_out_is_found_in_its_line() {
    let (_state, dir) = log(3);
    let path = segment(&dir);
    let sound = fs::read(&path).unwrap();
    let mut line = 1;
    for (at, byte) in sound.iter().enumerate() {
        for more in [b' ', b'\n', b'0', *byte] {
            let mut bytes = sound.clone();
            bytes.insert(at, more);
            let found = fault(&path, &bytes).unwrap_or_else(|| panic!("byte {at}: {more:#x} not found"));
            assert!(found.line == line || found.line == line + 1 && more == *byte, "byte {at}, {more:#x}: {found:?}");
        }
        let mut bytes = sound.clone();
        bytes.remove(at);
        // Without its end the last line is cut short.
        assert_eq!(fault(&path, &bytes).map(|found| found.line), Some(line), "byte {at}");
        line += u64::from(*byte == b'\n');
    }
}

#[test]
fn every_line_that_is_missing_doubled_or_in_another_place_is_found() {
    let (_state, dir) = log(12);
    let path = segment(&dir);
    let sound = lines(&path);
    let broken = |lines: &[String], first: usize, what: &str| {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let report = judge(&dir);
        let found = report.fault.unwrap_or_else(|| panic!("{what}: not found"));
        // What is missing at the end is found by the checkpoints beside the log.
        let named = found.line == first as u64 + 1 && found.file.contains("audit-");
        assert!(named || found.file.contains(CHECKPOINTS) && first >= lines.len(), "{what}: {found:?}");
    };
    for at in 0..sound.len() {
        let mut lines = sound.clone();
        lines.remove(at);
        broken(&lines, at, &format!("line {} removed", at + 1));
        let mut lines = sound.clone();
        lines.insert(at, sound[at].clone());
        broken(&lines, at + 1, &format!("line {} doubled", at + 1));
        for other in at + 1..sound.len() {
            let mut lines = sound.clone();
            lines.swap(at, other);
            broken(&lines, at, &format!("lines {} and {} swapped", at + 1, other + 1));
            let mut lines = sound.clone();
            let moved = lines.remove(other);
            lines.insert(at, moved);
            broken(&lines, at, &format!("line {} moved to {}", other + 1, at + 1));
        }
    }
}

#[test]
fn an_end_that_was_cut_off_is_found_by_any_later_checkpoint() {
    let (_state, dir) = log(12);
    let path = segment(&dir);
    let sound = fs::read(&path).unwrap();
    let latest = read::latest_checkpoint(&dir).unwrap().unwrap();
    let key = read_public(&dir.join(PUBLIC)).unwrap();
    let asked = Asked { paths: vec![path.clone()], checkpoints: vec![("kept".to_owned(), latest)] };
    assert!(verify(&asked, &key).unwrap().valid);
    for length in 0..sound.len() {
        fs::write(&path, &sound[..length]).unwrap();
        let report = verify(&asked, &key).unwrap();
        assert!(!report.valid, "{length} bytes are left");
        let whole = length > 0 && sound[length - 1] == b'\n';
        if whole {
            let found = report.fault.unwrap();
            assert!(found.file == "kept" && found.what.contains("its end was cut off"), "{found:?}");
        }
    }
}

/// Hashes lines anew from one on, as somebody does who has changed it and lacks the key.
fn rehash(lines: &[String], from: usize) -> Vec<String> {
    let mut prev: Option<Hex> = None;
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let mut text = line.clone();
        if at >= from {
            let (body, _) = line.rsplit_once(",\"prev\":\"").unwrap();
            let before = prev.unwrap_or(Hex::ZERO);
            let mut bytes = format!("{body},\"prev\":\"{before}\"}}").into_bytes();
            seal(&mut bytes, 0);
            text = String::from_utf8(bytes).unwrap().trim_end().to_owned();
        }
        prev = Some(Line::read(text.as_bytes()).unwrap().hash);
        out.push(text);
    }
    out
}

#[test]
fn a_log_that_was_written_anew_without_the_key_is_found() {
    let (_state, dir) = log(12);
    let path = segment(&dir);
    let sound = lines(&path);
    for at in 0..sound.len() {
        let mut lines = sound.clone();
        if lines[at].contains("\"checkpoint\"") {
            continue;
        }
        lines[at] = lines[at].replace("192.0.2.", "198.51.100.");
        assert_ne!(lines[at], sound[at]);
        let lines = rehash(&lines, at);
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let found = judge(&dir).fault.unwrap_or_else(|| panic!("line {}: not found", at + 1));
        let next = (at..sound.len()).find(|at| sound[*at].contains("\"checkpoint\"")).unwrap();
        assert_eq!(found.line, next as u64 + 1, "the next checkpoint signs another line: {found:?}");
    }
}

#[test]
fn another_key_signs_nothing() {
    let (_state, dir) = log(12);
    let path = segment(&dir);
    let sound = lines(&path);
    let other = tempfile::tempdir().unwrap();
    let forger = Key::create(other.path()).unwrap();
    let genuine = Key::load(&dir).unwrap().unwrap();
    for claims in [&forger, &genuine] {
        let (mut text, mut prev, mut previous) = (Vec::new(), Hex::ZERO, Hex::ZERO);
        for (seq, line) in (1_u64..).zip(&sound) {
            let read = Line::read(line.as_bytes()).unwrap();
            match Checkpoint::of_line(read.members) {
                Some(checkpoint) => {
                    let mut statement = checkpoint.unwrap().statement;
                    (statement.head, statement.previous) = (prev.to_string(), previous.to_string());
                    statement.key = claims.id.clone();
                    let signed = Checkpoint::sign(statement, &forger);
                    previous = signed.hash();
                    prev = signed.write(&mut text, seq, prev);
                }
                None => {
                    let from = text.len();
                    let (body, _) = line.rsplit_once(",\"prev\":\"").unwrap();
                    let body = body.replace("192.0.2.", "198.51.100.");
                    text.extend_from_slice(format!("{body},\"prev\":\"{prev}\"}}").as_bytes());
                    prev = seal(&mut text, from);
                }
            }
        }
        assert_eq!(fault(&path, &text).map(|found| found.line), Some(1), "the first signature is not ours");
    }
}

#[test]
fn a_log_without_its_checkpoints_is_found() {
    let (_state, dir) = log(30);
    let path = segment(&dir);
    fs::remove_file(dir.join(CHECKPOINTS)).unwrap();
    let entries: Vec<String> = lines(&path).into_iter().filter(|line| !line.contains("\"checkpoint\"")).collect();
    let renumber = |lines: Vec<String>| {
        let of = |(seq, line): (u64, String)| {
            let (_, rest) = line.split_once("\"seq\":").unwrap();
            let (_, rest) = rest.split_once(',').unwrap();
            format!("{{\"v\":1,\"seq\":{seq},{rest}")
        };
        rehash(&(1..).zip(lines).map(of).collect::<Vec<_>>(), 0)
    };
    let first = lines(&path).remove(0);
    fs::write(&path, renumber(entries.clone()).join("\n") + "\n").unwrap();
    assert!(judge(&dir).fault.unwrap().what.contains("begins with a checkpoint"), "all of them");
    let with_first: Vec<String> = [first].into_iter().chain(entries).collect();
    fs::write(&path, renumber(with_first).join("\n") + "\n").unwrap();
    let found = judge(&dir).fault.unwrap();
    assert!(found.what.contains("30 lines at the end have no checkpoint, and 5 may"), "all but the first: {found:?}");
}

#[test]
fn every_byte_of_the_file_of_checkpoints_counts() {
    let (_state, dir) = log(6);
    let path = dir.join(CHECKPOINTS);
    let sound = fs::read(&path).unwrap();
    let mut line = 1;
    for (at, byte) in sound.iter().enumerate() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let found = judge(&dir).fault.unwrap_or_else(|| panic!("byte {at}: not found"));
        assert!(found.file.ends_with(CHECKPOINTS) && found.line == line, "byte {at}: {found:?}");
        line += u64::from(*byte == b'\n');
    }
    let all: Vec<&[u8]> = sound.split_inclusive(|byte| *byte == b'\n').collect();
    for at in 0..all.len() - 1 {
        let kept: Vec<&[u8]> = all.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, line)| *line).collect();
        fs::write(&path, kept.concat()).unwrap();
        assert_eq!(judge(&dir).fault.map(|found| found.line), Some(at as u64 + 1), "line {} removed", at + 1);
    }
    fs::remove_file(&path).unwrap();
    assert!(judge(&dir).valid, "the log has them all itself");
}

#[test]
fn files_that_are_missing_are_found() {
    let (_state, dir) = log(0);
    let (mut chain, _) = Chain::open(&dir, Audit { segment_bytes: 1500, ..rules() }).unwrap();
    for _ in 0..40 {
        add(&mut chain, 1);
        chain.rotate().unwrap();
    }
    drop(chain);
    let all = segments::list(&dir).unwrap();
    assert!(all.len() > 4 && judge(&dir).valid, "{:?}", judge(&dir));
    for (at, path) in all.iter().enumerate() {
        let aside = path.with_extension("gone");
        fs::rename(path, &aside).unwrap();
        let found = judge(&dir).fault.unwrap_or_else(|| panic!("file {at} of {}: not found", all.len()));
        let last = at + 1 == all.len();
        let next = all.get(at + 1).map(|path| path.display().to_string());
        assert!(last && found.file.ends_with(CHECKPOINTS) || Some(&found.file) == next.as_ref(), "{at}: {found:?}");
        fs::rename(&aside, path).unwrap();
    }
    // A file by itself says how far it goes.
    let key = read_public(&dir.join(PUBLIC)).unwrap();
    let report = verify(&Asked { paths: vec![all[1].clone()], checkpoints: Vec::new() }, &key).unwrap();
    assert!(report.valid && !report.complete && report.first > 1, "{report:?}");
    fs::rename(&all[1], dir.join("audit-7.jsonl")).unwrap();
    assert!(judge(&dir).fault.unwrap().what.contains("name"), "a file under another name");
}

#[test]
fn a_checkpoint_of_another_log_is_not_agreed_with() {
    let ((_one, dir), (_two, other)) = (log(7), log(7));
    let key = read_public(&dir.join(PUBLIC)).unwrap();
    let theirs = read::latest_checkpoint(&other).unwrap().unwrap();
    let asked = Asked { paths: vec![dir.clone()], checkpoints: vec![("theirs".to_owned(), theirs)] };
    assert!(verify(&asked, &key).unwrap().fault.unwrap().what.contains("was signed with the key"));
    // The same key, and another history.
    let ours = read::latest_checkpoint(&dir).unwrap().unwrap();
    fs::remove_file(dir.join(CHECKPOINTS)).unwrap();
    fs::remove_file(segment(&dir)).unwrap();
    add(&mut Chain::open(&dir, rules()).unwrap().0, 7);
    let asked = Asked { paths: vec![dir], checkpoints: vec![("ours".to_owned(), ours)] };
    let found = verify(&asked, &key).unwrap().fault.unwrap();
    assert!(found.file == "ours", "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_logged_is_read_again(
        texts in prop::collection::vec((".{0,40}", any::<String>(), any::<Option<u32>>()), 1..12),
    ) {
        let state = tempfile::tempdir().unwrap();
        let dir = dir(state.path());
        let (mut chain, _) = Chain::open(&dir, rules()).unwrap();
        for (subject, reason, number) in &texts {
            let entry = Entry::new("a.b", subject.as_str()).because(reason.as_str()).now(json!({ subject.as_str(): number }));
            chain.append(&Stamped::new(entry, false));
        }
        chain.flush().unwrap();
        let report = judge(&dir);
        prop_assert!(report.valid, "{report:?}");
        let read = read::Reader::new(&dir, read::Wanted::default()).next(usize::MAX).unwrap();
        let read: Vec<(String, String)> = read.into_iter().map(|(_, line)| (line.subject, line.reason)).collect();
        let wanted: Vec<(String, String)> = texts.into_iter().map(|(subject, reason, _)| (subject, reason)).collect();
        prop_assert_eq!(read, wanted);
    }
}
