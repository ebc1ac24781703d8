//! Tests on listings that RADV and NVK (Mesa 25.0.7) wrote; that of NVK is shortened.

use super::compare::{Differences, other_versions};
use super::figures::{Figures, Table};
use super::record::{Record, parse};
use super::{listing, markdown};

fn record(text: &str) -> Record {
    parse(text).into_values().next().unwrap()
}

#[test]
fn figures_of_rdna3() {
    let record = record(include_str!("fixtures/rdna3.txt"));
    let figures = Figures::amd(&record);
    let expected = Figures {
        registers: Some(24),
        spills: Some(0),
        scratch: Some(0),
        waves: Some(16),
        instructions: Some(93),
        loop_valu: Some(27),
        inner_valu: Some(27),
        // Four rows of the table and the output, before the first is waited for.
        loads: Some(5),
    };
    assert_eq!(figures, expected);
}

#[test]
fn the_loop_of_rdna2_with_the_most_arithmetic_counts() {
    let record = record(include_str!("fixtures/rdna2.txt"));
    let loops = listing::amd(&record.assembly);
    assert_eq!(
        loops.iter().map(|found| (found.instructions.len(), found.valu(), found.innermost)).collect::<Vec<_>>(),
        [(20, 1, true), (32, 10, true)]
    );
    let figures = Figures::amd(&record);
    // A wave of 32 lanes is counted once.
    assert_eq!((figures.registers, figures.waves, figures.loop_valu, figures.loads), (Some(16), Some(32), Some(10), Some(1)));
}

#[test]
fn figures_of_nvk_leave_out_what_is_uniform() {
    let record = record(include_str!("fixtures/nvk.txt"));
    let loops = listing::nvidia(&record.assembly);
    assert_eq!(
        loops.iter().map(|found| (found.instructions.len(), found.valu(), found.innermost)).collect::<Vec<_>>(),
        [(16, 4, false), (5, 1, true)]
    );
    let figures = Figures::nvidia(&record);
    assert_eq!((figures.registers, figures.spills, figures.scratch, figures.waves), (Some(44), None, Some(16), Some(10)));
    assert_eq!((figures.instructions, figures.loop_valu, figures.inner_valu, figures.loads), (Some(248), Some(4), Some(1), None));
}

#[test]
fn a_kernel_without_loops_has_no_figures_of_loops() {
    let figures = Figures::amd(&Record {
        assembly: "BB0:\n\ts_cbranch_scc0 BB1 ; bf\n\tv_mov_b32 v1, 0\nBB1:\n\ts_endpgm".to_owned(),
        ..Record::default()
    });
    assert_eq!(figures, Figures::default());
}

fn table(rows: &[(&str, Figures)]) -> Table {
    let rows = rows.iter().map(|(kernel, figures)| ([*kernel, "rdna3", "naga"].map(str::to_owned), *figures)).collect();
    Table { versions: [("Mesa".to_owned(), "25.0.7-2".to_owned())].into(), rows }
}

#[test]
fn the_file_keeps_versions_and_rows() {
    let figures = Figures { registers: Some(24), instructions: Some(1200), ..Figures::default() };
    let written = table(&[("matvec plain q4", figures), ("add plain", Figures::default())]);
    let text = written.to_tsv();
    assert!(text.contains("\nadd plain\trdna3\tnaga\t-\t-\t-\t-\t-\t-\t-\t-\nmatvec plain q4\trdna3\tnaga\t24\t-"), "{text}");
    assert_eq!(text.parse::<Table>().unwrap(), written);
    for wrong in ["add plain\trdna3\tnaga\t1", "add plain\trdna3\tnaga\tx\t-\t-\t-\t-\t-\t-\t-"] {
        let error = format!("{:#}", format!("# a: b\n{wrong}\n").parse::<Table>().unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }
}

#[test]
fn only_kernels_of_the_set_cpu_have_spills_or_scratch_or_too_many_registers() {
    let table: Table = include_str!("../../../kernels/isa.tsv").parse().unwrap();
    let (of_cpu, others): (Vec<_>, Vec<_>) = table.rows.iter().partition(|([kernel, ..], _)| kernel.contains(" cpu"));
    assert!(!of_cpu.is_empty() && others.len() > 500);
    for (key, figures) in others {
        assert_eq!(figures.scratch, Some(0), "{key:?}");
        // NVK does not count spills; they are in its scratch.
        assert!(figures.spills.is_none_or(|spills| spills == 0), "{key:?}");
        // Four subgroups of 32 lanes on RDNA2, and as many on NVIDIA, must fit a SIMD.
        if key[0].starts_with("attention ") {
            assert!(figures.registers.unwrap() <= 128, "{key:?}");
        }
    }
}

#[test]
fn more_instructions_and_rows_without_a_counterpart_fail() {
    let figures = |instructions, registers| Figures { instructions: Some(instructions), registers: Some(registers), ..Figures::default() };
    let before = table(&[("a", figures(10, 1)), ("b", figures(10, 1)), ("c", figures(10, 1))]).rows;
    let same = Differences::new(&before, &before);
    assert_eq!(same, Differences::default());
    same.check().unwrap();

    let better = table(&[("a", figures(9, 1)), ("b", figures(10, 2)), ("c", figures(10, 1))]).rows;
    let differences = Differences::new(&before, &better);
    assert_eq!(differences.better, ["a, rdna3, naga: instructions 10 -> 9"]);
    assert_eq!(differences.other, ["b, rdna3, naga: registers 1 -> 2"]);
    differences.check().unwrap();

    let worse = table(&[("a", figures(11, 1)), ("b", figures(10, 1)), ("d", figures(10, 1))]).rows;
    let differences = Differences::new(&before, &worse);
    assert_eq!(differences.worse, ["a, rdna3, naga: instructions 10 -> 11"]);
    assert_eq!(differences.unmatched, ["d, rdna3, naga: not in the file", "c, rdna3, naga: in the file, and not compiled"]);
    let error = differences.check().unwrap_err().to_string();
    assert!(error.contains("1 of spills, scratch, instructions are larger than in the file, 2 rows"), "{error}");
}

#[test]
fn other_versions_are_named() {
    let (file, mut now) = (table(&[]), table(&[]));
    assert!(other_versions(&file, &now).is_empty());
    now.versions.insert("naga".to_owned(), "30.0.1".to_owned());
    now.versions.insert("Mesa".to_owned(), "25.0.8".to_owned());
    assert_eq!(other_versions(&file, &now), ["Mesa 25.0.8, in the file 25.0.7-2", "naga 30.0.1, in the file unknown"]);
}

#[test]
fn tables_are_aligned() {
    let lines = [["kernel", "registers"], ["add plain", "24"]].map(|line| line.map(str::to_owned).to_vec());
    assert_eq!(markdown(&lines), "| kernel    | registers |\n| --------- | --------- |\n| add plain | 24        |");
}
