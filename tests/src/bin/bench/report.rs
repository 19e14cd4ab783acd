//! The figures: a table for people, JSON for machines.

use serde::Serialize;

/// One figure of ours, and one to compare it with.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// `constant` or `cycle` for packets; empty where neither applies.
    pub input: &'static str,
    /// Ours.
    pub ours: f64,
    /// The unit of both figures.
    pub unit: &'static str,
    /// Whose the other figure is.
    pub rival: Option<&'static str>,
    /// The other figure.
    pub rival_figure: Option<f64>,
    /// Ours in parts of the other.
    pub ratio: Option<f64>,
    /// The most that the ratio may be, or the figure itself where there is no other.
    pub target: Option<f64>,
    /// Whether it is no more than that.
    pub met: Option<bool>,
}

impl Row {
    /// A figure of our own.
    pub fn alone(case: impl Into<String>, ours: f64, unit: &'static str, target: Option<f64>) -> Self {
        let met = target.map(|target| ours <= target);
        let (case, input) = (case.into(), "");
        Self { case, input, ours, unit, rival: None, rival_figure: None, ratio: None, target, met }
    }

    /// Nanoseconds per packet beside somebody else's.
    pub fn beside(
        case: impl Into<String>,
        input: &'static str,
        ours: f64,
        (rival, figure): (&'static str, f64),
        target: Option<f64>,
    ) -> Self {
        let ratio = ours / figure;
        Self {
            case: case.into(),
            input,
            ours,
            unit: "ns",
            rival: Some(rival),
            rival_figure: Some(figure),
            ratio: Some(ratio),
            target,
            met: target.map(|target| ratio <= target),
        }
    }
}

/// Rows under one heading.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// The heading.
    pub title: &'static str,
    /// The figures.
    pub rows: Vec<Row>,
}

/// The datapath as the kernel accepted it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Program {
    /// Instructions that the verifier followed.
    pub verified_instructions: u32,
    /// Bytes after the verifier.
    pub translated_bytes: u32,
    /// Bytes of machine code.
    pub machine_code_bytes: u32,
}

/// Everything that one run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `uname -r`.
    pub kernel: String,
    /// The processor, as the kernel names it.
    pub processor: String,
    /// Runs of a program in a round.
    pub repeat: u32,
    /// Rounds; a figure is their median.
    pub rounds: usize,
    /// The datapath.
    pub program: Program,
    /// The figures.
    pub sections: Vec<Section>,
}

impl Report {
    /// Prints the heading of the table.
    pub fn print_head(&self) {
        println!("kernel {}, {}", self.kernel, self.processor);
        let Program { verified_instructions, translated_bytes, machine_code_bytes } = self.program;
        println!(
            "datapath: {verified_instructions} instructions verified, {translated_bytes} bytes translated, \
             {machine_code_bytes} bytes of machine code"
        );
        println!("{} rounds of {} runs, median, net of a bare XDP_PASS", self.rounds, self.repeat);
    }

    /// Adds a section and prints it.
    pub fn add(&mut self, title: &'static str, rows: Vec<Row>) {
        println!("\n{:44} {:8} {:>9} {:>9}  {:23} {:>5}  target", title, "input", "ours", "other", "", "ratio");
        rows.iter().for_each(print_row);
        self.sections.push(Section { title, rows });
    }

    /// Prints what missed its target; returns how many there are.
    pub fn print_verdict(&self) -> usize {
        let rows = || self.sections.iter().flat_map(|section| &section.rows);
        let (met, missed) =
            (rows().filter(|row| row.met == Some(true)).count(), rows().filter(|row| row.met == Some(false)));
        let missed: Vec<&Row> = missed.collect();
        println!("\n{met} targets met, {} missed", missed.len());
        missed.iter().for_each(|row| print_row(row));
        missed.len()
    }
}

fn print_row(row: &Row) {
    let other = row.rival_figure.map_or(String::new(), |figure| format!("{figure:.1}"));
    let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    let target = match (row.target, row.met) {
        (Some(target), Some(true)) => format!("{target} met"),
        (Some(target), _) => format!("{target} MISSED"),
        _ => String::new(),
    };
    let ours = format!("{:.1} {}", row.ours, row.unit);
    let rival = row.rival.unwrap_or_default();
    println!("{:44} {:8} {ours:>9} {other:>9}  {rival:23} {ratio:>5}  {target}", row.case, row.input);
}
