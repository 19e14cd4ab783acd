//! The real Alertmanager.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
};

use ftagent::decide::{Incident, Severity};
use ftagent_tests::{
    daemon::wait_for,
    peers,
    sandbox::{Sandbox, skip},
};
use serde_json::Value;

use super::{PATIENCE, Place, hand, incident, over, sink, wait_done};

const ADDRESS: &str = "127.0.0.1:19093";

/// Asks it; `None` while it does not answer.
fn get(path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(ADDRESS).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| serde_json::from_str(body).ok())?
}

/// Returns severities of the alerts that are active; `None` while it does not answer.
fn active() -> Option<Vec<String>> {
    let all = get("/api/v2/alerts?active=true")?;
    let severity = |alert: &Value| alert["labels"]["severity"].as_str().unwrap().to_owned();
    let mut found: Vec<String> = all.as_array().unwrap().iter().map(severity).collect();
    found.sort();
    Some(found)
}

#[test]
fn what_goes_on_is_active_there_and_what_is_over_is_not() {
    ftagent_tests::require_root!();
    let Some(mut command) = peers::program("prometheus-alertmanager") else {
        return skip("Alertmanager", "there is no prometheus-alertmanager: `cargo xtask setup`");
    };
    Sandbox::run(|sandbox| {
        let place = Place::new();
        // Debian's binary reads a template from where its package puts it.
        let shipped = peers::unpacked().join("usr/share/prometheus");
        if shipped.is_dir() && !std::path::Path::new("/usr/share/prometheus/alertmanager").exists() {
            sandbox.command("mount -t tmpfs tmpfs /usr/share").unwrap();
            fs::create_dir("/usr/share/prometheus").unwrap();
            sandbox.command(&format!("mount --bind {} /usr/share/prometheus", shipped.display())).unwrap();
        }
        let config = place.state().join("alertmanager.yml");
        fs::write(&config, "route:\n  receiver: none\nreceivers:\n  - name: none\n").unwrap();
        let log = fs::File::create(place.state().join("alertmanager.log")).unwrap();
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", place.state().join("data").display()));
        command.args([&format!("--web.listen-address={ADDRESS}"), "--cluster.listen-address="]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let _running = sandbox.spawn(command).unwrap();
        let up = wait_for("Alertmanager", PATIENCE, || get("/api/v2/status"));
        up.unwrap_or_else(|e| panic!("{e}: {}", fs::read_to_string(place.state().join("alertmanager.log")).unwrap()));

        let lines = format!("url = \"http://{ADDRESS}\"");
        let post = place.post(&sink("alertmanager", &lines));
        hand(&post, incident("i"));
        wait_done(&post, "delivered", 1);
        let all = get("/api/v2/alerts").unwrap();
        assert_eq!(all[0]["labels"]["alertname"], "FtagentAttack", "{all:#}");
        assert_eq!(all[0]["generatorURL"], "https://noc.example.net/i");
        assert!(all[0]["annotations"]["summary"].as_str().unwrap().starts_with("ATTACK on edge1"));
        assert_eq!(active().unwrap(), ["high"]);
        // Its severity is a label: the alert of before ends as another begins.
        hand(&post, Incident { severity: Severity::Critical, ..incident("i") });
        wait_for("the escalation", PATIENCE, || (active()? == ["critical"]).then_some(())).unwrap();
        // A restart says again what goes on, and does not wait for news.
        let before = get("/api/v2/alerts").unwrap()[0]["updatedAt"].clone();
        post.stop();
        let post = place.post(&sink("alertmanager", &lines));
        let again = || (get("/api/v2/alerts")?[0]["updatedAt"] != before).then_some(());
        wait_for("it to be said again", PATIENCE, again).unwrap();
        hand(&post, over("i"));
        wait_for("the end", PATIENCE, || active()?.is_empty().then_some(())).unwrap();
        let tested = ftagent::alert::try_once(&place.config(&sink("alertmanager", &lines)).alerts, "s").unwrap();
        assert!(tested.arrived, "{tested:?}");
        post.stop();
    })
    .unwrap();
}
