//! What comes late, and what goes on when an attack is over.

use std::{net::UdpSocket, path::Path, sync::Arc, time::Duration};

use crate::{
    alert::{Post, message::tests::flood},
    config::Config,
    decide::{Incident, Now},
    record::audit::AuditLog,
};

/// A receiver of syslog, and whoever tells it; what merely changed is told at this interval.
pub(in crate::alert) fn telling(changed: &str) -> (UdpSocket, Post, tempfile::TempDir) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let state = tempfile::tempdir().unwrap();
    let post = life(&receiver, changed, state.path());
    (receiver, post, state)
}

fn life(receiver: &UdpSocket, changed: &str, state: &Path) -> Post {
    let text = format!(
        "[audit]\nenabled = false\n[alerts]\nnode = \"edge1\"\nchanged_interval = \"{changed}\"\n[[alerts.sinks]]\n\
         name = \"log\"\nkind = \"syslog\"\naddress = \"udp://{}\"\n",
        receiver.local_addr().unwrap()
    );
    let config = Config::parse(&text, "test").unwrap();
    Post::start(state, &config.alerts, AuditLog::default()).unwrap().0
}

fn next(receiver: &UdpSocket) -> String {
    let mut buffer = [0; 4096];
    let length = receiver.recv(&mut buffer).expect("nothing was told");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

pub(in crate::alert) fn over(incident: &Incident) -> Incident {
    let at = incident.opened;
    Incident {
        closed: Some(Now { mono_ns: at.mono_ns + 60_000_000_000, unix_ms: at.unix_ms + 60_000 }),
        ..incident.clone()
    }
}

#[test]
fn what_was_recorded_late_begins_no_attack_anew_and_what_is_upstream_is_told_beyond_its_end() {
    let (receiver, post, _state) = telling("1s");
    let (open, over) = (Arc::new(flood()), Arc::new(over(&flood())));
    post.seen(Arc::clone(&open), None);
    assert!(next(&receiver).contains("ATTACK on edge1"));
    assert!(post.upstream(&open.id, vec!["rtbh is in force upstream: black hole for 192.0.2.7/32".to_owned()]));
    // It is over, and those who look know; what was recorded before comes behind.
    post.look(vec![Arc::clone(&over)], None);
    let told = next(&receiver);
    assert!(told.contains("OVER: ") && told.contains("rtbh is in force upstream"), "{told}");
    post.seen(Arc::clone(&open), None);
    post.seen(Arc::clone(&over), None);
    // It is taken back, long after.
    post.after(Arc::clone(&over), "rtbh: probe: taken back".to_owned());
    let told = next(&receiver);
    assert!(told.contains("AFTER syn_flood on edge1, which is over: rtbh: probe: taken back; rtbh is"), "{told}");
    assert!(post.upstream(&open.id, Vec::new()));
    post.after(Arc::clone(&over), "rtbh: not needed any more".to_owned());
    let told = next(&receiver);
    assert!(told.contains("rtbh: not needed any more; nothing is left upstream"), "{told}");
    post.stop();
    assert_eq!(post.status().sinks[0].results.get("delivered"), Some(&4));
}

#[test]
fn the_last_word_on_what_is_upstream_is_neither_held_back_nor_lost_in_a_restart() {
    let (receiver, post, state) = telling("1h");
    let over = Arc::new(over(&flood()));
    let up = || vec!["rtbh is in force upstream: black hole for 192.0.2.7/32".to_owned()];
    assert!(post.upstream(&over.id, up()));
    post.after(Arc::clone(&over), "rtbh: probed".to_owned());
    let told = next(&receiver);
    assert!(told.contains("rtbh: probed; rtbh is in force upstream"), "{told}");
    // It is taken back for good a moment later: whoever was told otherwise must not wait for an hour.
    assert!(post.upstream(&over.id, Vec::new()));
    post.after(Arc::clone(&over), "rtbh: taken back".to_owned());
    let told = next(&receiver);
    assert!(told.contains("rtbh: taken back; nothing is left upstream"), "{told}");
    // What waits while more is to come is on disk when the daemon ends, and the next life tells it.
    assert!(post.upstream(&over.id, up()));
    post.after(Arc::clone(&over), "rtbh: came back".to_owned());
    post.stop();
    let post = life(&receiver, "1h", state.path());
    let told = next(&receiver);
    assert!(told.contains("rtbh: came back; rtbh is in force upstream"), "{told}");
    post.stop();
}
