//! Shader sources: stripped at compile time and unrolled at run time.

/// Expands to the code of a WGSL file next to the caller, without comment lines and indentation: every page downloads it, and these would be
/// a third of the compressed bytes.
macro_rules! wgsl {
    ($file:literal) => {{
        const SOURCE: &[u8] = include_str!($file).as_bytes();
        const STRIPPED: ([u8; SOURCE.len()], usize) = $crate::wgsl::strip(SOURCE);
        const CODE: [u8; STRIPPED.1] = *STRIPPED.0.first_chunk().unwrap();
        const {
            match std::str::from_utf8(&CODE) {
                Ok(code) => code,
                Err(_) => panic!("WGSL is UTF-8"),
            }
        }
    }};
}
pub(crate) use wgsl;

/// Returns `source` without comment lines and indentation, and its length.
pub(crate) const fn strip<const N: usize>(source: &[u8]) -> ([u8; N], usize) {
    let (mut code, mut length) = ([0; N], 0);
    let mut rest = source;
    while let Some((&first, after)) = rest.split_first() {
        if first == b' ' || first == b'\n' {
            rest = after;
            continue;
        }
        let comment = matches!(rest, [b'/', b'/', ..]);
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if !comment {
                code[length] = byte;
                length += 1;
            }
            if byte == b'\n' {
                break;
            }
        }
    }
    (code, length)
}

/// Unrolls lines of WGSL: a line with `$a` becomes one line for each number below the count of `a`, with the number in place of `$a`.
///
/// Some adapters keep an array that a loop indexes in memory. Separate variables stay in registers on all adapters.
pub(crate) fn unroll(source: &str, counts: &[(char, usize)]) -> String {
    let mut lines: Vec<String> = source.lines().map(str::to_owned).collect();
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
    fn comments_and_indentation_do_not_ship() {
        let source = b"// a\n\nfn b() {\n    // c\n    d(); // e\n}\n";
        let (code, length) = super::strip::<64>(source);
        assert_eq!(&code[..length], b"fn b() {\nd(); // e\n}\n");
    }

    #[test]
    fn lines_are_repeated_for_every_number() {
        assert_eq!(super::unroll("a$r$p\nb\n", &[('r', 2), ('p', 2)]), "a00\na01\na10\na11\nb\n");
    }
}
