//! A disk that cannot be written when the daemon starts: it protects, says what it cannot keep, and keeps it as soon
//! as the disk takes it. The file systems are real ones, of the sandbox alone.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use ftagent_tests::{
    daemon::{self, Daemon, PATIENCE, wait_for},
    http::{Server, says},
    require_root,
};

use super::{
    audit::{lines, text},
    capture::{A_MINUTE, complete, declared, meta, opened},
    disk::{SECTIONS, Scene, over, packets, removes, scene, told, warning},
    drops,
};

const NOTHING: &str = "nothing can be written to";

/// A feed and a sink, both in the daemon's folder.
fn sections(daemon: &Daemon, sink: &Server) -> String {
    let (list, secret) = (daemon.path("list.txt"), daemon.path("secret"));
    fs::write(&list, "203.0.113.9\n").unwrap();
    let words = format!("url = {}\nsecret = whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", sink.url("/hook"));
    daemon::secret(&secret, &words).unwrap();
    format!(
        "{SECTIONS}[[feeds]]\nname = \"list\"\npath = {list:?}\n[[alerts.sinks]]\nname = \"hook\"\nkind = \"webhook\"\n\
         secret = {secret:?}\n"
    )
}

/// Returns what a gauge or a counter has reached, all its labels together.
fn measured(daemon: &Daemon, name: &str) -> Option<f64> {
    let scrape = daemon.metrics().ok()?;
    let value = |line: &str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let values: Vec<f64> = scrape.lines().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Waits until nothing is wrong with the disk any more.
fn mended(daemon: &Daemon) {
    let calm = || warning(daemon, NOTHING).is_none().then_some(());
    wait_for("the end of the trouble", A_MINUTE, calm).unwrap();
    over(daemon);
    let saved = || {
        let warnings = daemon.status().unwrap().warnings;
        warnings
            .iter()
            .all(|warning| !warning.contains("not saved") && !warning.contains("cannot be saved"))
            .then_some(())
    };
    wait_for("everything to be saved", A_MINUTE, saved)
        .unwrap_or_else(|_| panic!("{:?}", daemon.status().unwrap().warnings));
    assert_eq!(measured(daemon, "ftagent_state_unwritable"), Some(0.0));
}

/// What an incident of this scene left on disk: all of it, from before it opened on.
fn kept(daemon: &Daemon, id: &str) {
    let found = complete(daemon, id);
    declared(&found);
    assert_eq!(packets(daemon, id), found.written);
    let written = fs::read_to_string(daemon.path("state").join("incidents.jsonl")).unwrap();
    assert!(written.contains(id), "{written}");
}

#[test]
fn a_daemon_starts_on_a_disk_that_cannot_be_written_and_writes_once_it_can() {
    require_root!();
    let cases =
        [("size=8m,ro", "Read-only file system", "rw"), ("size=8m,nr_inodes=1", "No space left", "nr_inodes=10000")];
    for (options, reason, again) in cases {
        scene(|mut scene| {
            let state = scene.state.clone();
            scene.mount(options, &state);
            let sink = Server::start(|_, _| says(200, ""));
            scene.daemon.configure(&sections(&scene.daemon, &sink)).unwrap();
            scene.daemon.launch(scene.sandbox).unwrap();
            let said = wait_for("a warning", PATIENCE, || warning(&scene.daemon, NOTHING)).unwrap();
            assert!(said.contains(reason) && said.contains("paths.state"), "{said}");
            assert!(scene.daemon.log().contains(NOTHING), "{}", scene.daemon.log());
            let gauge = || (measured(&scene.daemon, "ftagent_state_unwritable") == Some(1.0)).then_some(());
            wait_for("the gauge", PATIENCE, gauge).unwrap();
            let alerted =
                || sink.asked().iter().any(|asked| asked.json().is_ok_and(|json| json.to_string().contains(NOTHING)));
            wait_for("an alert", PATIENCE, || alerted().then_some(())).unwrap();
            let doctor = scene.daemon.cli(&["doctor"]).unwrap();
            let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
            let line = doctor.lines().find(|line| line.contains("state directory")).unwrap();
            assert!(line.starts_with("FAIL") && line.contains("cannot be written"), "{doctor}");
            assert!(drops(scene.sandbox, &scene.veth, &scene.daemon, "203.0.113.9"), "the feed is in force");
            scene.daemon.ok(&["allow", "203.0.113.9"]).unwrap();
            assert!(
                !drops(scene.sandbox, &scene.veth, &scene.daemon, "203.0.113.9"),
                "operators' entries are in force"
            );

            scene.daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
            let flooding = scene.flood();
            let daemon = &scene.daemon;
            let id = wait_for("an incident", PATIENCE, || opened(daemon)).unwrap();
            told(daemon, reason);
            removes(daemon);
            assert!(meta(daemon, &id).is_none());
            scene.remount(again, &state);
            mended(daemon);
            removes(daemon);
            flooding.end();
            kept(daemon, &id);
            let actions: Vec<String> = lines(daemon, &[]).iter().map(|line| text(line, "action").to_owned()).collect();
            for wanted in ["daemon.start", "incident.open", "allow.add", "audit.gap"] {
                assert!(actions.iter().any(|action| action == wanted), "{wanted} is not in {actions:?}");
            }
            // The next life knows all of it.
            scene.daemon.terminate().unwrap();
            let from = scene.daemon.log().len();
            scene.daemon.launch(scene.sandbox).unwrap();
            let log = scene.daemon.log().split_off(from);
            assert!(!log.contains("cannot") && !log.contains("damaged"), "{log}");
            assert!(scene.daemon.ok(&["incidents"]).unwrap().contains(&id));
            let rules = scene.daemon.rules().unwrap();
            assert_eq!((rules.allow.len(), rules.block.is_empty()), (1, false));
            scene.end(&[&state]);
        });
    }
}

/// Waits until the datapath drops, as metrics tell.
fn dropping(daemon: &Daemon) {
    let dropped = || measured(daemon, "ftagent_dropped_packets_total").unwrap_or(0.0);
    let before = dropped();
    let more = || (dropped() > before + 10_000.0).then_some(());
    wait_for("drops", PATIENCE, more).unwrap_or_else(|error| panic!("{error:#}: {}", daemon.log()));
}

/// Makes a folder read-only but for the log in it, which is the tests' own.
fn freeze(scene: &Scene<'_>, folder: &Path) {
    let (folder, log) = (folder.display(), scene.daemon.path("log"));
    scene.sandbox.command(&format!("mount --bind {folder} {folder}")).unwrap();
    scene.sandbox.command(&format!("mount --bind {0} {0}", log.display())).unwrap();
    scene.sandbox.command(&format!("mount -o remount,ro,bind {folder}")).unwrap();
}

#[test]
fn where_everything_is_read_only_it_goes_on_as_it_was_and_answers_when_it_can() {
    require_root!();
    scene(|mut scene| {
        let folder = scene.daemon.path("").canonicalize().unwrap();
        scene.daemon.launch(scene.sandbox).unwrap();
        scene.daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        scene.daemon.ok(&["block", "198.51.100.7", "--for", "1h"]).unwrap();
        // What is normal is written every minute, and at the end.
        scene.daemon.terminate().unwrap();
        fs::write(scene.state.join("rules.json"), "no rules at all").unwrap();
        let from = scene.daemon.log().len();
        freeze(&scene, &folder);
        let flooding = scene.flood();
        scene.daemon.begin(scene.sandbox).unwrap();
        let gauge = || (measured(&scene.daemon, "ftagent_state_unwritable") == Some(1.0)).then_some(());
        wait_for("the daemon", PATIENCE, gauge).unwrap_or_else(|error| panic!("{error:#}: {}", scene.daemon.log()));
        dropping(&scene.daemon);
        let log = scene.daemon.log().split_off(from);
        assert!(log.contains(NOTHING) && log.contains("control.sock"), "{log}");
        assert!(scene.daemon.status().is_err(), "there is no place for a socket");

        scene.remount("rw,bind", &folder);
        let begun = Instant::now();
        while scene.daemon.status().is_err() && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50));
        }
        mended(&scene.daemon);
        removes(&scene.daemon);
        let id = opened(&scene.daemon).unwrap();
        flooding.end();
        kept(&scene.daemon, &id);
        assert_eq!(scene.daemon.rules().unwrap().block.len(), 1);
        // What is damaged is kept before anything takes its place.
        scene.daemon.ok(&["rules", "add", "udp sport 19 then drop", "--for", "10m"]).unwrap();
        let names = fs::read_dir(&scene.state).unwrap().map(|entry| entry.unwrap().file_name());
        let aside = names.filter(|name| name.to_string_lossy().starts_with("rules.damaged-")).count();
        assert_eq!(aside, 1);
        assert_eq!(lines(&scene.daemon, &["--action", "daemon.start"]).len(), 2);
        let log = scene.daemon.path("log");
        scene.end(&[&log, &folder]);
    });
}
