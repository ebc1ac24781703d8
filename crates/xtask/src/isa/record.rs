//! The file that the driver of `crates/isa` and a compiling program write: for each kernel its name, then statistics and assembly.

use std::collections::BTreeMap;

/// The statistics and the assembly of one kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Statistics of the driver that are whole numbers, by their names.
    pub statistics: BTreeMap<String, u64>,
    /// The assembly, in the driver's form.
    pub assembly: String,
}

/// Returns the records by the names of their kernels. Pipelines before the first name are the program's.
pub fn parse(text: &str) -> BTreeMap<String, Record> {
    let mut records = BTreeMap::new();
    let mut current: Option<(String, Record)> = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("kernel ") {
            records.extend(current.replace((name.to_owned(), Record::default())));
        } else if let Some((name, value)) = line.strip_prefix("statistic ").and_then(|rest| rest.split_once(" = ")) {
            if let (Some((_, record)), Ok(value)) = (&mut current, value.parse()) {
                record.statistics.insert(name.to_owned(), value);
            }
        } else if line == "assembly" {
            let assembly: Vec<&str> = lines.by_ref().take_while(|line| *line != "end").collect();
            if let Some((_, record)) = &mut current {
                record.assembly = assembly.join("\n");
            }
        }
    }
    records.extend(current);
    records
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_record_belongs_to_the_name_before_it() {
        let text = "statistic VGPRs = 9\nassembly\nx\nend\nkernel a b\nstatistic Code size = 224\nstatistic Rate = 0.5\nassembly\nBB0:\n\ts_endpgm\n\nend\nkernel c\n";
        let records = parse(text);
        assert_eq!(records.keys().collect::<Vec<_>>(), ["a b", "c"]);
        let record = &records["a b"];
        assert_eq!(record.statistics.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>(), [("Code size", 224)]);
        assert_eq!(record.assembly, "BB0:\n\ts_endpgm\n");
        assert_eq!(records["c"], super::Record::default());
    }
}
