//! The daemon with its rules in nftables.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use ftagent_tests::{
    daemon::{BPFFS, Daemon, PATIENCE, wait_for},
    peers, require_root,
    sandbox::Sandbox,
    traffic::{Program, Receiver},
};

use super::send;

const SECTIONS: &str = "[services]\ndetect = false\n[mitigation]\nplane = \"nftables\"\n";
/// What [`send`] sends.
const SENT: &str = "udp sport 40000 dport 4242";

fn has_nft() -> bool {
    peers::need("the daemon with nftables", &["nft"])
}

fn packets(sandbox: &Sandbox, counter: &str) -> u64 {
    let listing = sandbox.command(&format!("nft -j list counter netdev ftagent {counter}")).unwrap();
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    listing["nftables"][1]["counter"]["packets"].as_u64().unwrap()
}

/// Waits for a count: packets arrive a moment after they were sent.
fn wait_for_packets(sandbox: &Sandbox, counter: &str, count: u64) {
    wait_for(counter, PATIENCE, || (packets(sandbox, counter) >= count).then_some(())).unwrap();
    assert_eq!(packets(sandbox, counter), count, "{counter}");
}

#[test]
fn rules_are_in_nftables_and_gone_after_detach() {
    require_root!();
    if !has_nft() {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--for", "10m", "--reason", "it floods"]).unwrap();
        send(sandbox, &veth, "192.0.2.7", 5);
        wait_for_packets(sandbox, "dropped1", 5);
        let counted = || daemon.rules().unwrap().rules.into_iter().find(|rule| rule.id == 1 && rule.dropped == 5);
        wait_for("the rule's count", PATIENCE, counted).unwrap();
        daemon.ok(&["allow", "192.0.2.7", "--reason", "a partner"]).unwrap();
        let allowed =
            || sandbox.command("nft list set netdev ftagent allow4").ok().filter(|set| set.contains("192.0.2.7"));
        wait_for("the allow list in nftables", PATIENCE, allowed).unwrap();
        let before = daemon.interface("wan0").unwrap().packets;
        send(sandbox, &veth, "192.0.2.7", 5);
        daemon.wait_for_interface("wan0", PATIENCE, |iface| iface.packets >= before + 5).unwrap();
        assert_eq!(packets(sandbox, "dropped1"), 5, "the allow list overrules it");
        sandbox.command("nft flush ruleset").unwrap();
        let back = || sandbox.command("nft list table netdev ftagent").ok().filter(|table| table.contains("dropped1"));
        wait_for("the table to be put back", PATIENCE, back).unwrap();
        daemon.ok(&["rules", "remove", "1"]).unwrap();
        assert!(!sandbox.command("nft list chain netdev ftagent v4").unwrap().contains("drop"));
        daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--for", "10m", "--reason", "again"]).unwrap();
        daemon.kill().unwrap();
        assert!(
            sandbox.command("nft list chain netdev ftagent v4").unwrap().contains("drop"),
            "it goes on without a daemon"
        );
        daemon.launch(sandbox).unwrap();
        send(sandbox, &veth, "192.0.2.8", 5);
        let counted = || daemon.rules().unwrap().rules.into_iter().find(|rule| rule.dropped == 5);
        wait_for("the restored rule's count", PATIENCE, counted).unwrap();
        daemon.ok(&["detach"]).unwrap();
        daemon.wait_for_end().unwrap();
        assert_eq!(sandbox.command("nft list tables").unwrap(), "");
    })
    .unwrap();
}

#[test]
fn a_table_that_cannot_be_removed_keeps_nothing_else_in_force() {
    require_root!();
    if !has_nft() {
        return;
    }
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--for", "10m", "--reason", "it floods"]).unwrap();
        let is_attached = || sandbox.command("ip -d link show wan0").unwrap().contains("prog/xdp");
        assert!(is_attached());
        // One that refuses, and notes whether the kernel program was pinned then.
        let (refuses, noted) = (daemon.path("nft"), daemon.path("noted"));
        let text =
            format!("#!/bin/sh\ntest -e {BPFFS} && echo pinned >>{0} || echo gone >>{0}\nexit 1\n", noted.display());
        fs::write(&refuses, text).unwrap();
        fs::set_permissions(&refuses, Permissions::from_mode(0o755)).unwrap();
        // In this sandbox's mount namespace alone.
        sandbox.command(&format!("mount --bind {} /usr/sbin/nft", refuses.display())).unwrap();
        let refused = daemon.refused(&["detach"]).unwrap();
        assert!(refused.contains("STILL THERE on this host: the nftables table"), "{refused}");
        daemon.wait_for_end().unwrap();
        assert!(!is_attached());
        let noted = fs::read_to_string(noted).unwrap();
        assert!(noted.ends_with("gone\n"), "what may hang comes last: {noted}");
        // Without a daemon it is the same …
        let refused = daemon.refused(&["detach"]).unwrap();
        assert!(refused.contains("STILL THERE on this host: the nftables table"), "{refused}");
        sandbox.command("umount /usr/sbin/nft").unwrap();
        assert_eq!(sandbox.command("nft list tables").unwrap().trim(), "table netdev ftagent");
        // … and once it can be removed, it is.
        daemon.ok(&["detach"]).unwrap();
        assert_eq!(sandbox.command("nft list tables").unwrap(), "");
    })
    .unwrap();
}

/// Another XDP program is never replaced; with nftables that is no reason to protect nothing.
#[test]
fn an_interface_without_the_kernel_program_gets_lists_and_rules() {
    require_root!();
    if !has_nft() {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let _foreign = Receiver::attach("wan0", Program::Pass).unwrap();
        let sections = format!("{SECTIONS}[lists]\nblock = [\"203.0.113.0/24\"]\n");
        let mut daemon = Daemon::new(&["wan0"], &sections).unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(daemon.log().contains("No eyes on this interface"), "{}", daemon.log());
        daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--for", "10m", "--reason", "it floods"]).unwrap();
        send(sandbox, &veth, "192.0.2.7", 5);
        wait_for_packets(sandbox, "dropped1", 5);
        let blocked =
            || sandbox.command("nft list set netdev ftagent block4").ok().filter(|set| set.contains("203.0.113.0/24"));
        wait_for("the block list in nftables", Duration::from_secs(10), blocked).unwrap();
        send(sandbox, &veth, "203.0.113.4", 3);
        wait_for_packets(sandbox, "blocked", 3);
        daemon.terminate().unwrap();
        daemon.ok(&["detach"]).unwrap();
        assert_eq!(sandbox.command("nft list tables").unwrap(), "");
    })
    .unwrap();
}
