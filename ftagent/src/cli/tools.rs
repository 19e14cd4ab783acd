//! `ftagent tools`: rules as text for firewalls, BGP daemons and routers.

mod input;
mod show;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::Cli;
use crate::rule::{
    Action, FlowMatch,
    vendor::{self, AnyCommunity, BlackHole, CannotSay, End, Options, PLATFORMS, Place, Platform, Text},
};
use show::{Asked, Printed, Written};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a rule for the firewall of a Linux host: nftables, iptables, ip6tables.
    Firewall(Firewall),
    /// Write a rule as BGP FlowSpec: ExaBGP, GoBGP, BIRD, Junos, IOS-XR; and what FRR, SR OS and EOS need to take it.
    Flowspec(Flowspec),
    /// Write a black hole (RTBH) for a BGP daemon or a router.
    Rtbh(Rtbh),
}

const EXAMPLES: &str = "Nothing is changed anywhere: the text goes to standard output, with what to know of it as \
                        comments. What a platform cannot express is said first, there and on standard error.";

/// Which rules.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// An incident of the running daemon, whose rules in force are meant: its id, the beginning or end of it, or
    /// `last`.
    #[arg(value_name = "INCIDENT", allow_negative_numbers = true)]
    incident: Option<String>,
    /// What is matched, as `ftagent rules add` takes it; more than once for several rules.
    #[arg(long = "match", value_name = "MATCH", conflicts_with = "incident")]
    matches: Vec<String>,
    /// What is done with it: drop, rate-limit 10 Mbps, rate-limit 300 pps, count.
    #[arg(long, value_name = "ACTION", requires = "matches")]
    action: Option<Action>,
    /// Incidents as `ftagent incidents --json` writes them; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["incident", "matches"])]
    file: Option<PathBuf>,
    /// Rules of incidents that have ended as well.
    #[arg(long)]
    ended: bool,
}

/// What of it is wanted.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Platforms, with commas between them; default: all.
    #[arg(long = "for", value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<String>,
    /// What tables, chains, routes and policies are called.
    #[arg(long, default_value = "ftagent-tools")]
    name: String,
    /// Write what takes it back instead.
    #[arg(long)]
    withdraw: bool,
    /// Fail unless every platform can say all that is asked for. What is a WIDENING does not count.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Platforms: {}.\n\nExamples:\n  ftagent tools firewall --match \"udp sport 123 len 400-1500\"\n  \
    ftagent tools firewall --match \"tcp dport 80\" --action \"rate-limit 5 kpps\" --for nftables --interface eth0\n  \
    ftagent tools firewall last --for iptables,ip6tables\n\n{EXAMPLES}", names(&[Place::Host])))]
struct Firewall {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
    /// The interface that packets arrive at; default: any.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Platforms: {}.\n\nExamples:\n  ftagent tools flowspec --match \"udp sport 123 len 400-1500 dst \
    198.51.100.10/32\"\n  ftagent tools flowspec --match \"udp dst 198.51.100.10\" --action \"rate-limit 10 Mbps\" --for exabgp \
    --strict\n  ftagent tools flowspec last --dst 198.51.100.10/32 --for gobgp\n\n{EXAMPLES}",
    names(&[Place::Network, Place::Receiver])))]
struct Flowspec {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
    /// The destination of rules that name none.
    #[arg(long, value_name = "PREFIX")]
    dst: Option<String>,
    /// Take rules without a destination: they act on everybody's traffic.
    #[arg(long)]
    anywhere: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Platforms: {}.\n\nExamples:\n  ftagent tools rtbh 198.51.100.10\n  ftagent tools rtbh \
    198.51.100.10 --community 64500:666 --for bird\n  ftagent tools rtbh 203.0.113.7 --source --for junos\n  ftagent tools rtbh \
    198.51.100.10 --withdraw\n\n{EXAMPLES}", names(&[Place::Network, Place::Receiver])))]
struct Rtbh {
    /// Addresses or prefixes.
    #[arg(value_name = "PREFIX", required = true)]
    prefixes: Vec<String>,
    /// Drop what comes from them, not what goes to them (RFC 5635, 4).
    #[arg(long)]
    source: bool,
    /// A community that the upstream asks for, such as 64500:666; default: 65535:666 (RFC 7999).
    #[arg(long = "community", value_name = "COMMUNITY")]
    communities: Vec<AnyCommunity>,
    /// Leave no-export out.
    #[arg(long)]
    export: bool,
    /// The next hop that edges discard; default: 192.0.2.1 and 100::1.
    #[arg(long, value_name = "ADDRESS")]
    next_hop: Option<IpAddr>,
    /// Take prefixes that are wider than /24 and /48.
    #[arg(long)]
    anywhere: bool,
    #[command(flatten)]
    how: How,
}

/// Prints the text.
///
/// # Errors
/// What is wrong with the rule or the options, and where an incident cannot be had.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    let network = &[Place::Network, Place::Receiver];
    let (how, written) = match &args.command {
        Command::Firewall(args) => (&args.how, rules(cli, args, &chosen(&args.how.platforms, &[Place::Host])?)?),
        Command::Flowspec(args) => (&args.how, routes(cli, args, &chosen(&args.how.platforms, network)?)?),
        Command::Rtbh(args) => (&args.how, holes(args, &chosen(&args.how.platforms, network)?)?),
    };
    let printed = Printed { written, withdraw: how.withdraw, named: !how.platforms.is_empty() };
    if cli.json {
        println!("{}", serde_json::to_string(&printed.written)?);
    } else {
        print!("{}", printed.text());
        eprint!("{}", printed.alarms());
    }
    Ok(if printed.is_well(how.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rules(cli: &Cli, args: &Firewall, platforms: &[&'static Platform]) -> Result<Vec<Written>> {
    let interface = args.interface.as_deref();
    let mut all = Vec::new();
    for (number, (matches, action)) in (1..).zip(input::rules(cli, &args.which)?) {
        let options = options(&args.how.name, number, interface)?;
        all.push(rule(&matches, action, &options, platforms, Place::Host, false));
    }
    Ok(all)
}

fn routes(cli: &Cli, args: &Flowspec, platforms: &[&'static Platform]) -> Result<Vec<Written>> {
    let dst = args.dst.as_deref().map(prefix).transpose()?;
    let mut all = Vec::new();
    for (number, (mut matches, action)) in (1..).zip(input::rules(cli, &args.which)?) {
        matches.dst = matches.dst.or(dst);
        let options = options(&args.how.name, number, None)?;
        all.push(rule(&matches, action, &options, platforms, Place::Network, args.anywhere));
    }
    Ok(all)
}

fn rule(
    matches: &FlowMatch,
    action: Action,
    options: &Options,
    platforms: &[&'static Platform],
    place: Place,
    anywhere: bool,
) -> Written {
    let asked = Asked::Rule { matches: Box::new(matches.clone()), action };
    match vendor::admit(matches, action, place, anywhere) {
        Err(refused) => Written::refused(asked, refused.to_string()),
        Ok(warnings) => {
            let concerned = platforms.iter().filter(|platform| platform.concerns(matches.family()));
            let texts = concerned.map(|platform| (*platform, (platform.rule)(matches, action, options)));
            Written::new(asked, warnings, texts.collect())
        }
    }
}

fn holes(args: &Rtbh, platforms: &[&'static Platform]) -> Result<Vec<Written>> {
    let end = if args.source { End::Source } else { End::Destination };
    let mut all = Vec::new();
    for (number, text) in (1..).zip(&args.prefixes) {
        let net = prefix(text)?;
        let hop = args.next_hop.filter(|hop| args.prefixes.len() == 1 || hop.is_ipv4() == net.addr().is_ipv4());
        let hole = BlackHole::new(net, end, args.communities.clone(), hop, args.anywhere)?;
        let hole = if args.export { hole.exported() } else { hole };
        let options = options(&args.how.name, number, None)?;
        let texts: Vec<(&'static Platform, Result<Text, CannotSay>)> = platforms
            .iter()
            .filter_map(|platform| platform.black_hole.map(|write| (*platform, write(&hole, &options))))
            .collect();
        all.push(Written::new(Asked::Hole { hole }, Vec::new(), texts));
    }
    Ok(all)
}

fn options(name: &str, number: u32, interface: Option<&str>) -> Result<Options> {
    let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
    Options::new(&name, interface).map_err(anyhow::Error::msg)
}

/// Reads a prefix or an address.
fn prefix(text: &str) -> Result<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    match net {
        Some(net) if net.trunc() == net => Ok(net),
        Some(net) => {
            bail!("`{net}` has host bits set: did you mean {} or {}?", net.trunc(), IpNet::from(net.addr()))
        }
        None => bail!("`{text}` is no address or prefix such as 192.0.2.0/24 or 2001:db8::/32"),
    }
}

/// Returns the platforms of these names.
fn chosen(wanted: &[String], places: &[Place]) -> Result<Vec<&'static Platform>> {
    let here = PLATFORMS.into_iter().filter(|platform| places.contains(&platform.place));
    if wanted.is_empty() || wanted.iter().any(|name| name == "all") {
        return Ok(here.collect());
    }
    let mut all: Vec<&'static Platform> = Vec::new();
    for name in wanted {
        match here.clone().find(|platform| platform.name == name.to_lowercase()) {
            Some(platform) if all.iter().any(|known| known.name == platform.name) => {}
            Some(platform) => all.push(platform),
            None => bail!("`{name}` is no platform of this command; they are {}, and all", names(places)),
        }
    }
    Ok(all)
}

fn names(places: &[Place]) -> String {
    let here = PLATFORMS.into_iter().filter(|platform| places.contains(&platform.place));
    here.map(|platform| platform.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
