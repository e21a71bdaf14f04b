//! Numbers, ratios and whether they are what was expected.

/// The rates of one contender, one per round.
pub struct Series {
    /// What it is called in the report.
    pub label: String,
    /// Operations in a second, by round.
    pub rates: Vec<f64>,
}

/// What was printed so far, as far as the end of the report repeats it.
#[derive(Default)]
pub struct Report {
    judged: Vec<(String, bool)>,
}

/// What a figure is expected to be.
#[derive(Clone, Copy)]
pub enum Expected {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Series {
    /// A series without rounds yet.
    pub fn new(label: &str) -> Series {
        Series { label: label.to_owned(), rates: Vec::new() }
    }
}

impl Report {
    /// A heading.
    pub fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// Prints one contender's rates; `clients` of them at once, so that one operation takes as many times longer.
    pub fn rates(&self, series: &Series, clients: u32) {
        let [low, median, high] = spread(&series.rates);
        let micros = f64::from(clients) * 1e6 / median;
        let range = format!("{low:.0} .. {high:.0}");
        println!("  {:<34}{median:>9.0} op/s  {range:>18}  {micros:>9.1} us/op", series.label);
    }

    /// Prints how many times as fast as `base` the contender is, round by round, and judges the median.
    pub fn ratio(&mut self, what: &str, series: &Series, base: &Series, expected: Option<Expected>) {
        let ratios: Vec<f64> = series.rates.iter().zip(&base.rates).map(|(ours, theirs)| ours / theirs).collect();
        let [low, median, high] = spread(&ratios);
        let range = format!("{low:.2} .. {high:.2}");
        let label = format!("{} / {}", series.label, base.label);
        print!("  {label:<34}{median:>9.2} x     {range:>18}");
        self.judge(&format!("{what}: {label}"), median, expected);
    }

    /// Prints one figure, and judges it.
    pub fn figure(&mut self, what: &str, value: f64, unit: &str, expected: Option<Expected>) {
        print!("  {what:<34}{value:>9.1} {unit:<24}");
        self.judge(what, value, expected);
    }

    /// Prints a figure that may be far below 1, and judges it. `what` is the section that it belongs to.
    pub fn fraction(&mut self, what: &str, label: &str, value: f64, unit: &str, expected: Option<Expected>) {
        print!("  {label:<34}{value:>9.4} {unit:<24}");
        self.judge(&format!("{what}: {label}"), value, expected);
    }

    /// Prints how many expectations were met; true when all were.
    pub fn summary(&self) -> bool {
        let missed: Vec<&str> = self.judged.iter().filter(|(_, met)| !met).map(|(what, _)| what.as_str()).collect();
        println!("\n{} of {} expectations met", self.judged.len() - missed.len(), self.judged.len());
        for what in &missed {
            println!("  BELOW  {what}");
        }
        missed.is_empty()
    }

    fn judge(&mut self, what: &str, value: f64, expected: Option<Expected>) {
        let Some(expected) = expected else {
            println!();
            return;
        };
        let (sign, limit, met) = match expected {
            Expected::AtLeast(limit) => (">=", limit, value >= limit),
            Expected::AtMost(limit) => ("<=", limit, value <= limit),
        };
        println!("  expected {sign} {limit:<5} {}", if met { "PASS" } else { "BELOW" });
        self.judged.push((what.to_owned(), met));
    }
}

/// The smallest, the middle and the largest.
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    let median = (sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0;
    [sorted[0], median, sorted[last]]
}
