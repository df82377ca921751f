//! What one check found, and all of them together: for people, what is wrong first, and as JSON.

use common::exit::Exit;
use indicatif::HumanCount;
use serde::Serialize;
use std::fmt;

/// Columns of a terminal that nobody has widened.
const WIDTH: usize = 80;
/// Where the text of a line begins, behind verdict and check.
const INDENT: usize = 23;
/// Where reasons and cures begin.
const BELOW: usize = 7;

/// `1 file`, `2 files`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", HumanCount(number), if number == 1 { "" } else { "s" })
}

/// What a check comes to, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Files are not mirrored, or are at risk, until somebody changes it.
    Wrong,
    /// It works; somebody may want to know.
    Note,
    /// As it should be.
    Ok,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Note => "note",
            Self::Ok => "ok",
        }
    }
}

/// The outcome of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The name of the check, for scripts: words joined by `_`.
    pub check: &'static str,
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// Why it matters.
    pub why: Option<String>,
    /// The commands or lines that cure it, one a line.
    pub cure: Option<String>,
    /// The cure is a sentence, which may be broken into lines.
    #[serde(skip)]
    is_prose: bool,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), why: None, cure: None, is_prose: false }
    }

    pub fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::ok(check, found) }
    }

    pub fn wrong(check: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, ..Self::ok(check, found) }
    }

    /// The same with why it matters.
    pub fn why(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// The same with what cures it.
    pub fn cure(self, cure: impl Into<String>) -> Self {
        Self { cure: Some(cure.into()), ..self }
    }

    /// The same with the hint of an error, where it has one.
    pub fn hint(self, hint: Option<&String>) -> Self {
        Self { cure: hint.cloned(), is_prose: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = format!("{:<BELOW$}{:<16}", self.verdict.as_str(), self.check.replace('_', " "));
        f.write_str(&wrapped(&head, &self.found, INDENT))?;
        if let Some(why) = &self.why {
            write!(f, "\n{}", wrapped(&format!("{:BELOW$}why: ", ""), why, BELOW + 5))?;
        }
        // As it is: it is copied.
        for (at, line) in self.cure.iter().flat_map(|cure| cure.lines()).enumerate() {
            let head = format!("{:BELOW$}{:<5}", "", if at == 0 { "do:" } else { "" });
            match self.is_prose {
                true => write!(f, "\n{}", wrapped(&head, line, BELOW + 5))?,
                false => write!(f, "\n{head}{line}")?,
            }
        }
        Ok(())
    }
}

/// All words of `text` behind `head`, in lines that end before the 80th column where words are short enough.
fn wrapped(head: &str, text: &str, indent: usize) -> String {
    let (mut out, mut column, mut first) = (head.to_owned(), head.chars().count(), true);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !first && column + 1 + length > WIDTH {
            out += &format!("\n{:indent$}", "");
            column = indent;
        } else if !first {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
        first = false;
    }
    out
}

/// All checks, worst first.
#[derive(Debug, Serialize)]
pub struct Report {
    pub node: String,
    pub mirror: String,
    /// How many are wrong.
    pub wrong: usize,
    /// How many are worth a look.
    pub notes: usize,
    pub checks: Vec<Finding>,
}

impl Report {
    pub fn new(node: String, mirror: String, mut checks: Vec<Finding>) -> Self {
        checks.sort_by_key(|finding| finding.verdict);
        let count = |verdict| checks.iter().filter(|finding| finding.verdict == verdict).count();
        Self { node, mirror, wrong: count(Verdict::Wrong), notes: count(Verdict::Note), checks }
    }

    pub fn exit(&self) -> Exit {
        if self.wrong == 0 { Exit::Done } else { Exit::Failed }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = None;
        for finding in &self.checks {
            if before.is_some_and(|before| before != finding.verdict) {
                writeln!(f)?;
            }
            before = Some(finding.verdict);
            writeln!(f, "{finding}")?;
        }
        let Self { node, mirror, wrong, notes, checks } = self;
        let ok = checks.len() - wrong - notes;
        write!(f, "\nnode {node} of mirror {mirror}: {wrong} wrong, {notes} to note, {ok} ok")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checks: Vec<Finding>) -> Report {
        Report::new("cms-1".into(), "media".into(), checks)
    }

    #[test]
    fn what_is_wrong_comes_first_and_decides_the_exit_code() {
        let (ok, note) = (Finding::ok("kernel", "6.1"), Finding::note("owner", "somebody"));
        let wrong = Finding::wrong("clock", "ahead");
        let fine = report(vec![ok.clone(), note.clone()]);
        assert_eq!((fine.exit(), fine.checks[0].check), (Exit::Done, "owner"));
        let bad = report(vec![ok, note, wrong]);
        assert_eq!((bad.exit(), bad.checks[0].check, bad.wrong, bad.notes), (Exit::Failed, "clock", 1, 1));
        assert!(bad.to_string().ends_with("node cms-1 of mirror media: 1 wrong, 1 to note, 1 ok"), "{bad}");
    }

    #[test]
    fn lines_end_before_the_80th_column_and_cures_are_left_as_they_are() {
        let cure = format!("sysctl -w {}\nsecond line", "x".repeat(100));
        let long = "some words that go on and on ".repeat(8);
        let text = Finding::wrong("root_disk", &long).why(&long).cure(&cure).to_string();
        let (cures, others): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.contains("sysctl") || line.contains("second"));
        assert!(others.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(others[0].starts_with("wrong  root disk       some words"), "{text}");
        assert!(others.iter().any(|line| line.starts_with("       why: some words")), "{text}");
        assert_eq!(cures[0], format!("       do:  sysctl -w {}", "x".repeat(100)));
        assert_eq!(cures[1], "            second line");
        let hinted = Finding::ok("root", "").hint(Some(&long)).to_string();
        assert!(hinted.lines().all(|line| line.chars().count() <= WIDTH), "{hinted}");
        // A word that no line holds stays whole.
        assert!(Finding::ok("root", "/".repeat(90)).to_string().contains(&"/".repeat(90)));
    }

    #[test]
    fn every_field_of_the_json_form_is_in_the_documents() {
        let path = format!("{}/../docs/DESIGN.md", env!("CARGO_MANIFEST_DIR"));
        let documented = std::fs::read_to_string(path).expect("a document");
        let json = serde_json::to_value(report(vec![Finding::ok("kernel", "6.1")])).expect("JSON");
        let fields = [&json, &json["checks"][0]];
        for name in fields.iter().flat_map(|value| value.as_object().expect("an object").keys()) {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not documented");
        }
        for verdict in [Verdict::Wrong, Verdict::Note, Verdict::Ok] {
            assert_eq!(serde_json::json!(verdict), verdict.as_str());
            assert!(documented.contains(&format!("`{}`", verdict.as_str())), "{verdict:?}");
        }
    }
}
