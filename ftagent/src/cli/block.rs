//! `ftagent block`, `unblock` and `allow`.

use std::{net::IpAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Cli,
    client::{call, ssh_client},
};
use crate::serve::protocol::{Entry, Request};

/// Arguments of `block`.
#[derive(Debug, clap::Args)]
pub struct Block {
    #[command(flatten)]
    target: Target,
    /// How long, for example 10m or 2h; default: `block.default_duration`.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
    /// Why; shown by `ftagent rules`.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do it although it covers this host, its gateway, its resolvers, an operator's session, or
    /// a very wide range.
    #[arg(long)]
    force: bool,
}

/// Arguments of `allow`.
#[derive(Debug, clap::Args)]
pub struct Allow {
    #[command(flatten)]
    target: Target,
    /// How long, for example 10m or 2h; default: until it is removed.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
    /// Why; shown by `ftagent rules`.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do it although the range is very wide.
    #[arg(long)]
    force: bool,
    /// Remove the entry instead.
    #[arg(long, conflicts_with_all = ["lasts", "force", "reason"])]
    remove: bool,
}

/// An address or prefix.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// Address or prefix, IPv4 or IPv6: 192.0.2.7, 2001:db8::/32.
    #[arg(value_name = "ADDR|CIDR", value_parser = parse_prefix)]
    prefix: IpNet,
}

/// Reads an address or a prefix. Host bits are refused, because they are a slip of the pen that
/// would block more than was meant.
fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = text.parse().map_err(|_| "not an address (192.0.2.7) or prefix (192.0.2.0/24)".to_owned())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("{net} has host bits set: did you mean {} or {}?", net.trunc(), IpNet::from(net.addr())))
    }
}

/// Blocks.
///
/// # Errors
/// What the daemon refuses.
pub fn block(cli: &Cli, args: &Block) -> Result<ExitCode> {
    let entry = entry(args.target.prefix, args.lasts, &args.reason, args.force);
    let data = call(cli, &Request::Block(entry))?;
    let lasts = super::text::duration(data["for_s"].as_u64().unwrap_or(0));
    let warning = data["warning"].as_str().map(|warning| format!("\nWARNING: {warning}")).unwrap_or_default();
    print(cli, &data, &format!("{} is blocked for {lasts}.{warning}", args.target.prefix))
}

/// Removes a block entry.
///
/// # Errors
/// What the daemon refuses.
pub fn unblock(cli: &Cli, args: &Target) -> Result<ExitCode> {
    let data = call(cli, &Request::Unblock { prefix: args.prefix })?;
    print(cli, &data, &format!("{} is not blocked any more.", args.prefix))
}

/// Allows, or removes an allow entry.
///
/// # Errors
/// What the daemon refuses.
pub fn allow(cli: &Cli, args: &Allow) -> Result<ExitCode> {
    let prefix = args.target.prefix;
    if args.remove {
        let data = call(cli, &Request::Unallow { prefix })?;
        return print(cli, &data, &format!("{prefix} is not on the allow list any more."));
    }
    let data = call(cli, &Request::Allow(entry(prefix, args.lasts, &args.reason, args.force)))?;
    let until = args
        .lasts
        .map_or("until it is removed".to_owned(), |lasts| format!("for {}", humantime::format_duration(lasts)));
    print(cli, &data, &format!("{prefix} is allowed {until}."))
}

fn entry(prefix: IpNet, lasts: Option<Duration>, reason: &str, force: bool) -> Entry {
    let for_s = lasts.map(|lasts| lasts.as_secs().max(1));
    Entry { prefix, for_s, reason: reason.to_owned(), force, ssh_client: ssh_client() }
}

fn print(cli: &Cli, data: &Value, text: &str) -> Result<ExitCode> {
    if cli.json {
        println!("{}", serde_json::to_string(data)?);
    } else {
        println!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_prefixes_and_slips() {
        let cases = [
            ("192.0.2.7", Ok("192.0.2.7/32")),
            ("2001:db8::1", Ok("2001:db8::1/128")),
            ("192.0.2.0/24", Ok("192.0.2.0/24")),
            ("192.0.2.7/24", Err("host bits")),
            ("192.0.2.256", Err("not an address")),
            ("192.0.2.0/33", Err("not an address")),
            ("", Err("not an address")),
        ];
        for (text, wanted) in cases {
            match (parse_prefix(text), wanted) {
                (Ok(net), Ok(wanted)) => assert_eq!(net.to_string(), wanted),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (got, wanted) => panic!("{text}: {got:?}, wanted {wanted:?}"),
            }
        }
    }
}
