//! `cargo xtask demo`: two throw-away hosts, customers, a real flood, and the agent between them.
//!
//! Nobody operates the agent: it learns what is normal, names the flood, chooses what to do
//! and says what it expects of it, removes the flood, and takes everything back when the flood is over. The
//! customers are counted all the time. Each act is another kind of flood. Nothing is left behind.

mod acts;
mod attack;
mod counted;
mod evidence;
mod ladder;
mod stage;
mod timeline;
mod told;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::{Result, ensure};
use clap::Parser;
use ftagent_tests::{
    customers::Customers,
    daemon::Daemon,
    sandbox::Sandbox,
    traffic::{Program, Receiver},
};

use acts::{ACTS, Act};
use stage::Stage;

/// What the agent is configured with: it learns for seconds here, not for minutes. Everything else
/// is as it comes, `mitigation.mode = "auto"` among it.
const SECTIONS: &str = "[services]\ndetect = false\n[learning]\ntrust_after = \"8s\"\n[capture]\nmin_free = \"0 B\"\n";

#[derive(Debug, Parser)]
struct Args {
    /// Packets a second of the floods.
    #[arg(long, default_value_t = 300_000)]
    pps: u64,
    /// Seconds that each phase is watched.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only the act of this name.
    #[arg(long)]
    act: Option<String>,
    /// What the network upstream is asked for, and how it is taken back.
    #[arg(long, conflicts_with_all = ["act", "pps", "seconds"])]
    ladder: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the demo makes network namespaces: run it as root");
    if args.ladder {
        let held = Sandbox::run(ladder::play)??;
        return Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let wanted = |act: &&Act| args.act.as_deref().is_none_or(|name| act.name == name);
    let acts: Vec<&Act> = ACTS.iter().filter(wanted).collect();
    let names: Vec<_> = ACTS.iter().map(|act| act.name).collect();
    ensure!(!acts.is_empty(), "there is no such act; there are {}", names.join(", "));
    let held = Sandbox::run(|sandbox| demo(sandbox, &args, &acts))??;
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the acts; returns whether all went as they should.
fn demo(sandbox: &Sandbox, args: &Args, acts: &[&Act]) -> Result<bool> {
    let veth = sandbox.veth("wan0", "peer0")?;
    println!("Two hosts joined by a veth pair: this one ({}) is protected, the other sends.\n", veth.here.v4);
    sandbox.widen(&veth)?;
    // Without a program at the other end a veth hands over none of the guard's answers, and their
    // checksums have to be right there.
    let _answers = sandbox.peer(|| Receiver::attach("peer0", Program::Pass))??;
    sandbox.peer_command("ethtool -K peer0 tx off")?;
    let agent = Daemon::start(sandbox, &["wan0"], SECTIONS)?;
    let stop = Arc::new(AtomicBool::new(false));
    let customers = Customers::begin(sandbox, &veth, &stop)?;
    let mut stage = Stage::new(sandbox, &veth, &agent, &customers, args.pps, args.seconds);
    stage.calm()?;
    let mut held = true;
    for act in acts {
        held &= stage.play(act)?;
    }
    stop.store(true, Relaxed);
    stage.summary();
    println!();
    held &= evidence::show(&agent)?;
    print!("{}", agent.ok(&["detach"])?);
    Ok(held)
}
