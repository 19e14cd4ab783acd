//! Whatever is cut off the log, what is left is a state that the outbox was in.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::alert::{
    log::{How, Log},
    message::tests::opened,
};

fn alert(topic: &str, kind: Kind, number: usize) -> Alert {
    Alert { id: format!("{topic}.{number}"), topic: topic.to_owned(), kind, ..opened() }
}

fn done(book: &Book, sink: &str, n: u64) -> Delivery {
    let id = book.find(sink, n).map_or(String::new(), |alert| alert.id.clone());
    Delivery {
        id,
        title: String::new(),
        sink: sink.to_owned(),
        how: How::Delivered,
        at_ms: 0,
        waited_ms: 0,
        answer: String::new(),
    }
}

/// What waits for each sink, and what each was told.
fn seen(book: &Book) -> Vec<(Vec<String>, Vec<String>)> {
    let of = |sink: &&str| {
        let waits = book.waiting(sink).map(|(_, entry)| entry.alert.id.clone()).collect();
        let told = book.topics().into_iter().filter(|topic| book.was_told(sink, topic)).collect();
        (waits, told)
    };
    ["a", "b"].iter().map(of).collect()
}

/// Does what a number says: puts a message of some topic, or delivers the oldest to a sink.
fn act(book: &mut Book, step: u8, number: usize) {
    let topic = format!("t{}", step % 3);
    match step / 3 {
        0..30 => {
            let kind = [Kind::Opened, Kind::Changed, Kind::Closed][usize::from(step / 3 % 3)];
            let sinks = [&["a"][..], &["b"], &["a", "b"]][usize::from(step / 9 % 3)];
            book.put(alert(&topic, kind, number), sinks.iter().map(|sink| (*sink).to_owned()).collect());
        }
        _ => {
            let sink = if step.is_multiple_of(2) { "a" } else { "b" };
            let oldest = book.waiting(sink).next().map(|(n, _)| n);
            if let Some(n) = oldest {
                let result = done(book, sink, n);
                book.done(n, result);
            }
        }
    }
}

proptest! {
    // Every step waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// kill -9 at any byte: the next life finds what was so after the last whole record, and goes on.
    #[test]
    fn a_log_that_was_cut_anywhere_is_a_state_that_was(steps in prop::collection::vec(any::<u8>(), 1..40), anew in 0_usize..40) {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, records, _) = Log::open(dir.path());
        let mut book = Book::of(records);
        log.rewrite(&book.snapshot().1).unwrap();
        let path = dir.path().join("outbox/log");
        // The states after each whole line since the file was written anew, by its length.
        let mut states = vec![(fs::metadata(&path).unwrap().len(), seen(&book))];
        for (number, step) in steps.iter().enumerate() {
            if number == anew {
                log.rewrite(&book.snapshot().1).unwrap();
                states = vec![(fs::metadata(&path).unwrap().len(), seen(&book))];
            }
            act(&mut book, *step, number);
            for (_, line) in book.unwritten() {
                log.append(&line).unwrap();
            }
            states.push((fs::metadata(&path).unwrap().len(), seen(&book)));
        }
        let whole = fs::read(&path).unwrap();
        let first = states[0].0 as usize;
        for end in first..=whole.len() {
            // Every boundary, and some places in between.
            if !(whole[end - 1] == b'\n' || end % 997 == 0) {
                continue;
            }
            fs::write(&path, &whole[..end]).unwrap();
            let (mut log, records, told) = Log::open(dir.path());
            prop_assert_eq!(told, None);
            let mut again = Book::of(records);
            let wanted = &states.iter().rev().find(|(length, _)| *length as usize <= end).unwrap().1;
            prop_assert_eq!(&seen(&again), wanted);
            if !end.is_multiple_of(5) {
                continue;
            }
            // It goes on: what is put now is there after the next start, and numbers are not used twice.
            again.put(alert("new", Kind::Opened, 0), vec!["a".to_owned()]);
            log.rewrite(&again.snapshot().1).unwrap();
            let (_, records, _) = Log::open(dir.path());
            prop_assert_eq!(seen(&Book::of(records)), seen(&again));
        }
    }
}

#[test]
fn a_damaged_line_costs_itself_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, records, _) = Log::open(dir.path());
    let mut book = Book::of(records);
    for number in 0..3 {
        book.put(alert(&format!("t{number}"), Kind::Opened, number), vec!["a".to_owned()]);
    }
    log.rewrite(&book.snapshot().1).unwrap();
    let path = dir.path().join("outbox/log");
    let text = fs::read_to_string(&path).unwrap();
    let (state, puts) = text.split_once('\n').unwrap();
    fs::write(&path, format!("{state}\n{}", puts.replacen("t1.1", "t9.1", 1))).unwrap();
    let (_, records, told) = Log::open(dir.path());
    assert!(told.unwrap().contains("1 lines that make no sense"));
    let ids: Vec<String> = Book::of(records).waiting("a").map(|(_, entry)| entry.alert.id.clone()).collect();
    assert_eq!(ids, ["t0.0", "t2.2"]);
    assert_eq!(fs::read_dir(dir.path().join("outbox")).unwrap().count(), 1, "it is kept aside");
}

#[test]
fn where_too_much_waits_the_least_important_goes() {
    let mut book = Book::default();
    // No later message says what became of what is upstream once its attack is over.
    let all = [("t", Kind::Opened), ("t:upstream", Kind::Changed), ("t", Kind::Changed), ("t", Kind::Opened)];
    for (number, (topic, kind)) in all.into_iter().enumerate() {
        book.put(alert(topic, kind, number), vec!["a".to_owned(), "b".to_owned()]);
    }
    assert_eq!(book.surplus(4, u64::MAX), None);
    assert_eq!(book.surplus(3, u64::MAX), Some((2, vec!["a".to_owned(), "b".to_owned()])));
    for sink in ["a", "b"] {
        let result = done(&book, sink, 2);
        book.done(2, result);
    }
    assert_eq!(book.surplus(2, u64::MAX).unwrap().0, 0, "then the oldest");
    assert!(book.surplus(3, 100).is_some(), "bytes count too");
}

#[test]
fn what_goes_on_is_known_after_a_restart() {
    let mut book = Book::default();
    book.put(alert("t", Kind::Opened, 1), vec!["a".to_owned()]);
    assert!(book.firing("a").is_empty(), "it was not sent yet");
    let result = done(&book, "a", 0);
    book.done(0, result);
    book.silence("b", 1_000_000, i64::MAX);
    let (_, text) = book.snapshot();
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = Log::open(dir.path());
    log.rewrite(&text).unwrap();
    let mut again = Book::of(Log::open(dir.path()).1);
    assert_eq!(again.firing("a").len(), 1);
    assert!(again.was_told("a", "t") && !again.was_told("b", "t"));
    assert!(again.silent_until("b", 1_000_001).is_some() && again.silent_until("a", 1_000_001).is_none());
    assert!(again.silent_until("b", 1_000_000 - SLACK_MS).is_some(), "clocks are adjusted");
    assert!(again.silent_until("b", 1_000_000 - SLACK_MS - 1).is_none(), "a clock that was set back tells people");
    assert_eq!(again.history().count(), 1);
    again.put(alert("t", Kind::Closed, 2), vec!["a".to_owned()]);
    assert!(again.firing("a").is_empty() && again.latest("t").is_some(), "the end waits");
    let result = done(&again, "a", 1);
    again.done(1, result);
    assert!(again.topics().is_empty());
}
