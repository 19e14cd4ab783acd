//! What comes late, and what goes on when an attack is over.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use crate::{
    alert::{Post, message::tests::flood},
    config::Config,
    decide::{Incident, Now},
    record::audit::AuditLog,
};

/// A receiver of syslog, and whoever tells it.
fn telling() -> (UdpSocket, Post, tempfile::TempDir) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let text = format!(
        "[audit]\nenabled = false\n[alerts]\nnode = \"edge1\"\nchanged_interval = \"1s\"\n[[alerts.sinks]]\n\
         name = \"log\"\nkind = \"syslog\"\naddress = \"udp://{}\"\n",
        receiver.local_addr().unwrap()
    );
    let config = Config::parse(&text, "test").unwrap();
    let state = tempfile::tempdir().unwrap();
    let post = Post::start(state.path(), &config.alerts, AuditLog::default()).unwrap().0;
    (receiver, post, state)
}

fn next(receiver: &UdpSocket) -> String {
    let mut buffer = [0; 4096];
    let length = receiver.recv(&mut buffer).expect("nothing was told");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn over(incident: &Incident) -> Incident {
    let at = incident.opened;
    Incident {
        closed: Some(Now { mono_ns: at.mono_ns + 60_000_000_000, unix_ms: at.unix_ms + 60_000 }),
        ..incident.clone()
    }
}

#[test]
fn what_was_recorded_late_begins_no_attack_anew_and_what_is_upstream_is_told_beyond_its_end() {
    let (receiver, post, _state) = telling();
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
