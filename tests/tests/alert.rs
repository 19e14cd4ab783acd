//! Who is told of an attack, and what happens where the other side misbehaves: every service against a strict
//! stand-in or the real program, and the outbox against failures, restarts and a full disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "alert/alertmanager.rs"]
mod alertmanager;
#[path = "alert/daemon.rs"]
mod daemon;
#[path = "alert/mail.rs"]
mod mail;
#[path = "alert/outbox.rs"]
mod outbox;
#[path = "alert/people.rs"]
mod people;
#[path = "alert/services.rs"]
mod services;
#[path = "alert/syslog.rs"]
mod syslog;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ftagent::{
    alert::Post,
    config::Config,
    decide::{
        Incident, Metric, Now, Severity, Vector,
        classify::{Evidence, Finding},
    },
    record::audit::AuditLog,
};
use ftagent_tests::{
    daemon::{self as machine, wait_for},
    http::{Request, Server},
};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a sender wrote, with characters in it that every service takes for something.
const LINE: &str = "payload <i>&amp; @everyone *_[x](http://evil)`|\"\\";

/// A state directory, and secrets.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> &Path {
        self.0.path()
    }

    /// Writes a secret for its owner alone.
    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        machine::secret(&path, text).unwrap();
        path
    }

    /// Starts with the sections of a configuration. Failures are tried again at once, almost.
    fn post(&self, sections: &str) -> Post {
        let config = self.config(sections);
        let log = AuditLog::start(self.state(), &config.audit, || ()).unwrap();
        Post::start(self.state(), &config.alerts, log).unwrap().0
    }

    fn config(&self, sections: &str) -> Config {
        let text = format!(
            "[audit]\nenabled = false\n[alerts]\nnode = \"edge1\"\nlink = \"https://noc.example.net/{{incident}}\"\n\
             retry_first = \"1ms\"\nretry_longest = \"20ms\"\ntrouble_after = \"0s\"\n{sections}"
        );
        Config::parse(&text, "test").unwrap()
    }
}

/// One sink named `s`, with further lines.
fn sink(kind: &str, lines: &str) -> String {
    format!("[[alerts.sinks]]\nname = \"s\"\nkind = \"{kind}\"\n{lines}\n")
}

fn now(ms: i64) -> Now {
    Now { mono_ns: u64::try_from(1_000_000 + ms).unwrap() * 1_000_000, unix_ms: ftagent_now() - 10_000 + ms }
}

fn ftagent_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A flood.
fn incident(id: &str) -> Incident {
    let evidence = Evidence {
        metric: Some(Metric::Pps),
        baseline: 310.0,
        threshold: 620.0,
        line: LINE.to_owned(),
        ..Evidence::default()
    };
    let finding = Finding { vector: Vector::SynFlood, confidence: 0.97, tool: None, evidence };
    Incident {
        confidence: 0.97,
        severity: Severity::High,
        exit_threshold: 500.0,
        pps: 48_210.0,
        bps: 24_683_520.0,
        peak_pps: 60_000.0,
        peak_bps: 30_720_000.0,
        packets: 3_480_000,
        bytes: 222_720_000,
        findings: vec![finding],
        ..Incident::new(id.to_owned(), Vector::SynFlood, now(-200), now(0))
    }
}

fn over(id: &str) -> Incident {
    Incident { closed: Some(now(5000)), ..incident(id) }
}

/// Hands an incident over; where there is no room, again: nothing is lost by that, and here it has to be exact.
fn hand(post: &Post, incident: Incident) {
    let (incident, until) = (Arc::new(incident), Instant::now() + PATIENCE);
    loop {
        let before = post.status().overflowed;
        post.seen(Arc::clone(&incident), None);
        if post.status().overflowed == before {
            return;
        }
        assert!(Instant::now() < until, "there is never room for an incident: {:#?}", post.status());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns what was sent, which must be JSON and be said to be.
fn body(asked: &Request) -> Value {
    asked.typed("application/json").and_then(|()| asked.json()).unwrap()
}

/// Returns a text of each webhook message that arrived.
fn each(sink: &Server, name: &str) -> Vec<String> {
    sink.asked().iter().map(|asked| body(asked)["data"][name].as_str().unwrap().to_owned()).collect()
}

/// Waits until so many messages were done with in a way, at the sink `s`.
fn wait_done(post: &Post, how: &str, times: u64) {
    let look = || (post.status().sinks.first()?.results.get(how).copied()? >= times).then_some(());
    wait_for(&format!("{times} {how}"), PATIENCE, look)
        .unwrap_or_else(|error| panic!("{error:#}: {:#?}", post.status()));
}
