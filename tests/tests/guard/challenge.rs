//! A rule that challenges: SYNs that it matches are answered with cookies, whatever is armed.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ftagent::{
    bpf::{
        guard::listener,
        rules::{KernelRules, Placed},
    },
    rule::{Action, Origin, Rule},
};
use ftagent_common::{guard::flags, reason::verdict};
use ftagent_tests::{require_root, sandbox::Sandbox};

use super::{Guarded, PORT, address, echo, serve, setting};

#[test]
fn a_rule_challenges_what_it_matches_and_nothing_else() {
    require_root!();
    for v6 in [false, true] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            setting("tcp_syncookies", "2");
            let (mut guarded, _receiver) = Guarded::new(sandbox, &veth);
            guarded.set(flags::ORACLE);
            let (challenged, other) =
                (SocketAddr::new(address(&veth, v6), PORT), SocketAddr::new(address(&veth, v6), 9));
            let _servers = (serve(challenged), serve(other));
            let mut rules = KernelRules::open(&guarded.ebpf).unwrap();
            let rule = Rule {
                matches: format!("tcp dport {PORT} flags syn/syn").parse().unwrap(),
                action: Action::Challenge,
                origin: Origin::Operator("ada".into()),
                reason: String::new(),
            };
            rules.install(&[Placed { slot: 3, rule, expires: u64::MAX }], guarded.hz).unwrap();
            let answered = |guarded: &mut Guarded| guarded.counters().verdicts[verdict::TX as usize];
            for visits in 1..=5 {
                sandbox.peer(|| echo(challenged, &[7; 10_000])).unwrap();
                sandbox.peer(|| echo(other, &[7; 10_000])).unwrap();
                assert_eq!(answered(&mut guarded), visits, "one answer for each visit to the one port");
            }
            let counter = rules.counters().unwrap().slots[3];
            assert_eq!((counter.packets, counter.dropped), (5, 0), "what is challenged counts, and is not dropped");
        })
        .unwrap();
    }
}

#[test]
fn what_nobody_listens_for_is_not_challenged() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        setting("tcp_syncookies", "2");
        let (mut guarded, _receiver) = Guarded::new(sandbox, &veth);
        guarded.set(flags::ORACLE);
        let mut rules = KernelRules::open(&guarded.ebpf).unwrap();
        let rule = Rule {
            matches: "tcp".parse().unwrap(),
            action: Action::Challenge,
            origin: Origin::Operator("ada".into()),
            reason: String::new(),
        };
        rules.install(&[Placed { slot: 3, rule, expires: u64::MAX }], guarded.hz).unwrap();
        let nobody = SocketAddr::new(address(&veth, false), PORT);
        let refused = sandbox.peer(|| TcpStream::connect(nobody)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the stack says so, as ever");
        // What a daemon that is gone had armed is armed no more, under a rule or not.
        guarded.guard.arm(PORT, listener(None));
        guarded.set(flags::ORACLE | flags::STATE);
        guarded.guard.renew(1);
        let refused = sandbox.peer(|| TcpStream::connect(nobody)).unwrap().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "the stack still says so");
        guarded.guard.renew(u64::MAX);
        let dropped =
            sandbox.peer(|| TcpStream::connect_timeout(&nobody, Duration::from_secs(1))).unwrap().unwrap_err();
        assert_eq!(dropped.kind(), std::io::ErrorKind::TimedOut, "while it is armed, nobody answers");
        guarded.guard.arm(PORT, 0);
        // A connection from before goes on under the rule, and so does one from here to there.
        let there = sandbox.peer(|| TcpListener::bind((veth.peer.v4, PORT)).unwrap()).unwrap();
        let _connected = TcpStream::connect((veth.peer.v4, PORT)).unwrap();
        there.accept().unwrap();
        assert_eq!(guarded.counters().verdicts[verdict::TX as usize], 0);
    })
    .unwrap();
}
