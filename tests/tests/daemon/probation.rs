//! A fresh attachment has to prove that packets still arrive.

use std::{
    fs,
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use ftagent_tests::{
    daemon::{BPFFS, Daemon, PATIENCE},
    require_root,
    sandbox::{Sandbox, Veth},
};

use super::{FIVE_SECONDS, program};

const SECTIONS: &str = "[services]\ndetect = false\n[probation]\nwindow = \"2s\"\n";

/// Sends a packet to wan0 every few milliseconds while `wanted`.
fn send_while(socket: &UdpSocket, veth: &Veth, wanted: impl Fn() -> bool) {
    while wanted() {
        socket.send_to(b"ordinary", (veth.here.v4, 4242)).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the daemon so that packets arrive until it has attached, and none afterwards.
fn start_into_silence(sandbox: &Sandbox, daemon: &mut Daemon, socket: &UdpSocket, veth: &Veth) {
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| send_while(socket, veth, || program("wan0").is_none() && !failed.load(Relaxed)));
        let launched = daemon.launch(sandbox);
        failed.store(launched.is_err(), Relaxed);
        launched.unwrap();
    });
}

#[test]
fn an_interface_that_falls_silent_is_let_go_and_tried_again() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let socket = sandbox.peer(|| UdpSocket::bind((veth.peer.v4, 0)).unwrap()).unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        assert_eq!(daemon.interface("wan0").unwrap().state, "protected", "where nothing arrived, nothing is proven");
        // Counters of an earlier life must not pass for packets that arrive now.
        socket.send_to(b"ordinary", (veth.here.v4, 4242)).unwrap();
        daemon.wait_for_interface("wan0", FIVE_SECONDS, |i| i.packets == 1).unwrap();
        let pin = format!("{BPFFS}/link_{}", veth.here.ifindex);
        let ended = |state: &str| state == "protected" || state.starts_with("detached");
        // A packet that was on its way while the program was attached proves it: then once more.
        let state = (0..10).find_map(|_| {
            daemon.terminate().unwrap();
            fs::remove_file(&pin).unwrap();
            ftagent_tests::daemon::wait_for("no program", PATIENCE, || program("wan0").is_none().then_some(()))
                .unwrap();
            start_into_silence(sandbox, &mut daemon, &socket, &veth);
            let interface = daemon.wait_for_interface("wan0", PATIENCE, |i| ended(&i.state)).unwrap();
            Some(interface.state).filter(|state| state != "protected")
        });
        let state = state.unwrap_or_else(|| panic!("it was never let go:\n{}", daemon.log()));
        assert!(state.contains("no packet arrived after attaching") && state.contains("next try in"), "{state}");
        assert_eq!(program("wan0"), None);
        let warnings = daemon.status().unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("wan0 is NOT protected")), "{warnings:?}");

        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| send_while(&socket, &veth, || !stop.load(Relaxed)));
            let back = daemon.wait_for_interface("wan0", Duration::from_secs(60), |i| i.state == "protected");
            stop.store(true, Relaxed);
            back.unwrap();
        });
        assert!(program("wan0").is_some(), "it was tried again, and packets arrived");
    })
    .unwrap();
}

#[test]
fn an_interface_that_goes_on_receiving_passes() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let socket = sandbox.peer(|| UdpSocket::bind((veth.peer.v4, 0)).unwrap()).unwrap();
        let mut daemon = Daemon::new(&["wan0"], SECTIONS).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| send_while(&socket, &veth, || !stop.load(Relaxed)));
            let passed = daemon.launch(sandbox).and_then(|()| {
                daemon.wait_for_log(0, "Packets arrive through the datapath: probation is over")?;
                daemon.wait_for_interface("wan0", PATIENCE, |i| i.state == "protected")
            });
            stop.store(true, Relaxed);
            passed.unwrap();
        });
        assert!(program("wan0").is_some());
    })
    .unwrap();
}
