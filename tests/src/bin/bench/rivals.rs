//! xdp-filter's programs from Debian's `xdp-tools`, with which ours are compared.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{PerCpuHashMap, PerCpuValues},
    programs::{Xdp, XdpMode},
};

use crate::measure;

/// Where libxdp1 puts its objects, by multiarch triplet.
const LIBRARY: &str = "/usr/lib";

/// `MAP_FLAG_SRC` of xdp-filter (`xdp-filter/common_kern_user.h`): match the address as source.
const MAP_FLAG_SRC: u64 = 1;

/// One of xdp-filter's programs.
pub struct Rival {
    /// The object and its program.
    pub name: &'static str,
    ebpf: Ebpf,
}

impl Rival {
    /// Loads one. Its maps are pinned by name: each gets a directory of its own below `pins`, a
    /// private bpffs.
    pub fn load(name: &'static str, pins: &Path) -> Result<Self> {
        let object = find(name)?;
        let pins = pins.join(name);
        std::fs::create_dir(&pins).with_context(|| format!("making {}", pins.display()))?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(&pins)
            .load_file(&object)
            .with_context(|| format!("loading {}", object.display()))?;
        measure::load(&mut ebpf, name)?;
        Ok(Self { name, ebpf })
    }

    /// Returns its program to be measured.
    pub fn subject(&self, verdict: u32) -> Result<measure::Subject<'_>> {
        let program = measure::loaded(&self.ebpf, self.name)?;
        Ok(measure::Subject { name: self.name, program, frags: false, verdict })
    }

    /// Attaches it in native mode.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let program = self.ebpf.program_mut(self.name).with_context(|| format!("no program `{}`", self.name))?;
        let attached = <&mut Xdp>::try_from(program)?.attach(interface, XdpMode::Driver);
        attached.map(drop).with_context(|| format!("attaching `{}` to {interface}", self.name))
    }

    /// Lists IPv4 sources.
    pub fn list4(&mut self, sources: &[u32]) -> Result<()> {
        let map = self.ebpf.map_mut("filter_ipv4").context("no map `filter_ipv4`")?;
        let mut map: PerCpuHashMap<_, u32, u64> = map.try_into()?;
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::Error::new(error).context(what))?;
        for source in sources {
            let values = PerCpuValues::try_from(vec![MAP_FLAG_SRC; cpus])?;
            map.insert(source.to_be(), values, 0)?;
        }
        Ok(())
    }
}

/// Finds an object of libxdp1.
fn find(name: &str) -> Result<PathBuf> {
    let file = format!("bpf/{name}.o");
    let entries = std::fs::read_dir(LIBRARY).context(LIBRARY)?;
    let found = entries.flatten().map(|entry| entry.path().join(&file)).find(|path| path.is_file());
    found.with_context(|| format!("no {LIBRARY}/*/{file}: install xdp-tools"))
}
