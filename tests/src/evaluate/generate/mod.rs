//! Captures that nobody could give us: written from the protocols' definitions, the same bytes
//! every time.
//!
//! What an attack's packets have in common is what its tool or its reflectors would give them,
//! and no more: addresses, hop counts, ports and payloads differ where they do in the wild. An
//! entry of the scenario list says which fields are constant.

mod benign;
mod flows;
mod maker;
mod other;
mod tcp;
mod udp;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use ftagent::replay::output::PcapWriter;

use maker::Maker;

/// The protected host, IPv4: where every generated packet goes or comes from.
pub const HOST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 10);
/// The protected host, IPv6.
pub const HOST6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// A capture that can be generated.
struct Recipe {
    name: &'static str,
    make: fn(&mut Maker) -> Result<()>,
}

const fn recipe(name: &'static str, make: fn(&mut Maker) -> Result<()>) -> Recipe {
    Recipe { name, make }
}

fn recipes() -> impl Iterator<Item = &'static Recipe> {
    [tcp::RECIPES, flows::RECIPES, udp::RECIPES, other::RECIPES, benign::RECIPES].into_iter().flatten()
}

/// Returns the names of all captures that can be generated, reflectors included.
pub fn names() -> Vec<String> {
    let reflectors = udp::REFLECTORS.iter().map(|reflector| format!("{}_amplification", reflector.name));
    recipes().map(|recipe| recipe.name.to_owned()).chain(reflectors).collect()
}

/// Writes the captures that `wanted` names into a folder. The name of a capture seeds it, so that
/// one more changes none of the others.
///
/// # Errors
/// Where the folder cannot be written.
pub fn write_captures(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for recipe in recipes().filter(|recipe| wanted(recipe.name)) {
        write(dir, recipe.name, recipe.make)?;
    }
    for reflector in udp::REFLECTORS {
        let name = format!("{}_amplification", reflector.name);
        if wanted(&name) {
            write(dir, &name, |maker| udp::reflected(maker, reflector))?;
        }
    }
    Ok(())
}

/// Returns the frames of a generated capture, in order, with their times.
///
/// # Errors
/// Where there is no such capture.
pub fn frames(name: &str) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut maker = Maker::new(name);
    if let Some(recipe) = recipes().find(|recipe| recipe.name == name) {
        (recipe.make)(&mut maker)?;
    } else {
        let reflector =
            udp::REFLECTORS.iter().find(|reflector| name.strip_suffix("_amplification") == Some(reflector.name));
        udp::reflected(&mut maker, reflector.with_context(|| format!("no capture `{name}` can be generated"))?)?;
    }
    Ok(maker.into_frames())
}

fn write(dir: &Path, name: &str, make: impl FnOnce(&mut Maker) -> Result<()>) -> Result<()> {
    let mut maker = Maker::new(name);
    make(&mut maker).with_context(|| format!("generating {name}"))?;
    let path = dir.join(format!("{name}.pcap"));
    // Two runs at the same time must not read each other's half-written files.
    let partial = dir.join(format!("{name}.pcap.{}", std::process::id()));
    let mut file = PcapWriter::create(&partial).with_context(|| partial.display().to_string())?;
    for (time_ns, frame) in maker.into_frames() {
        file.write(time_ns, &frame)?;
    }
    file.finish()?;
    fs::rename(&partial, &path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests;
