//! Loops that must not be loops.

/// Repeats lines of WGSL: a line with `$a` stands for as many lines as `counts` says of `a`, with its numbers in the place of `$a`. Lines of
/// comment at the margin, which explain the places, are left out.
///
/// Arrays that a loop indexes live in memory on some adapters; sums in variables with names of their own stay in registers everywhere.
pub(crate) fn unroll(source: &str, counts: &[(char, usize)]) -> String {
    let mut lines: Vec<String> = source.lines().filter(|line| !line.starts_with("//")).map(str::to_owned).collect();
    for (name, count) in counts {
        let place = format!("${name}");
        let repeat = |line: String| match line.contains(&place) {
            true => (0..*count).map(|number| line.replace(&place, &number.to_string())).collect(),
            false => vec![line],
        };
        lines = lines.into_iter().flat_map(repeat).collect();
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_are_repeated_for_every_number() {
        assert_eq!(super::unroll("a$r$p\nb\n", &[('r', 2), ('p', 2)]), "a00\na01\na10\na11\nb\n");
    }

    #[test]
    fn comments_at_the_margin_are_left_out() {
        assert_eq!(super::unroll("// $r\na$r\n  // b\n", &[('r', 2)]), "a0\na1\n  // b\n");
    }
}
