//! `ftagent doctor`.

use std::process::ExitCode;

use anyhow::Result;

use super::Cli;
use crate::{
    act::nft::{Nft, probe},
    bpf::{attach, pins::Pins},
    config::Config,
    doctor::{AttachedXdp, DoctorInput, capabilities, exit_code, run as examine, table},
    sense::host::HostRoot,
};

/// Examines this machine; the exit code is 1 where something must be mended.
///
/// # Errors
/// None but those of printing.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let config = Config::load(cli.config.as_deref());
    let pins =
        Pins::at(&config.as_ref().map_or_else(|_| Config::default().paths.bpffs, |config| config.paths.bpffs.clone()));
    let xdp_of = |ifindex| {
        let found = attach::query(ifindex).ok().flatten()?;
        let name = attach::program_name(found.program);
        let ours = attach::is_attached(&pins.link(ifindex), ifindex).unwrap_or(false);
        Some(AttachedXdp { program_id: found.program, name, mode: found.mode.as_str().to_owned(), ours })
    };
    let (root, capabilities) = (HostRoot::default(), capabilities());
    let config = config.as_ref();
    let nft = |interfaces: &[String]| probe(Nft::default(), interfaces);
    let input = DoctorInput { config, root: &root, capabilities: &capabilities, xdp_of: &xdp_of, nft: &nft };
    let checks = examine(&input);
    if cli.json {
        println!("{}", serde_json::to_string(&checks)?);
    } else {
        print!("{}", table(&checks));
    }
    Ok(ExitCode::from(exit_code(&checks)))
}
