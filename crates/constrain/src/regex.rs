//! Regular expressions of JavaScript as grammars.

use llguidance::regex_to_lark;
use regex_syntax::ast::{
    Assertion, AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSet, ClassSetItem, GroupKind, HexLiteralKind, Literal, LiteralKind, Span,
    SpecialLiteralKind, parse::Parser, print::Printer,
};

/// The characters of `\s`.
const SPACE: &str = r"\t\n\x0b\x0c\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}";
/// Those that `.` does not match.
const LINE_ENDS: &str = r"\n\r\u{2028}\u{2029}";

/// Returns the grammar of the texts that a pattern matches as a whole.
pub(crate) fn grammar(pattern: &str, flags: &str) -> Result<String, String> {
    let mut ast = Parser::new().parse(pattern).map_err(|error| error.to_string())?;
    remove_anchors(&mut ast, &AssertionKind::StartLine);
    remove_anchors(&mut ast, &AssertionKind::EndLine);
    let at = |span: &Span| format!("`{}` at byte {}", &pattern[span.start.offset..span.end.offset], span.start.offset);
    if let Some(Assertion { span, .. }) = assertion_in(&ast) {
        return Err(format!("{} is not supported: `^` and `$` are, at the ends", at(span)));
    }
    if let Some(span) = other_meaning(&ast, pattern, flags) {
        return Err(format!("{} has another meaning in JavaScript, or none: write it in a different way", at(span)));
    }
    replace_classes(&mut ast, flags.contains('s'));
    let mut whole = String::new();
    Printer::new().print(&ast, &mut whole).map_err(|error| error.to_string())?;
    let case = if flags.contains('i') { "i" } else { "" };
    Ok(format!("start: /{}/{case}", regex_to_lark(&whole, "")))
}

/// Removes `^` at the beginning of a pattern and of its alternatives, or `$` at the end: the pattern matches as a whole anyway.
fn remove_anchors(ast: &mut Ast, kind: &AssertionKind) {
    match ast {
        Ast::Assertion(assertion) if assertion.kind == *kind => *ast = Ast::empty(assertion.span),
        Ast::Concat(concat) => {
            let edge = if *kind == AssertionKind::StartLine { concat.asts.first_mut() } else { concat.asts.last_mut() };
            edge.into_iter().for_each(|ast| remove_anchors(ast, kind));
        }
        Ast::Alternation(alternation) => alternation.asts.iter_mut().for_each(|ast| remove_anchors(ast, kind)),
        Ast::Group(group) => remove_anchors(&mut group.ast, kind),
        _ => {}
    }
}

/// Returns an assertion of a pattern.
fn assertion_in(ast: &Ast) -> Option<&Assertion> {
    match ast {
        Ast::Assertion(assertion) => Some(assertion),
        Ast::Concat(concat) => concat.asts.iter().find_map(assertion_in),
        Ast::Alternation(alternation) => alternation.asts.iter().find_map(assertion_in),
        Ast::Group(group) => assertion_in(&group.ast),
        Ast::Repetition(repetition) => assertion_in(&repetition.ast),
        _ => None,
    }
}

/// Returns the place of something that Rust's `regex` reads and JavaScript reads in a different way or not at all.
fn other_meaning<'a>(ast: &'a Ast, pattern: &str, flags: &str) -> Option<&'a Span> {
    let unicode = flags.contains(['u', 'v']);
    match ast {
        Ast::Flags(set) => Some(&set.span),
        Ast::Literal(literal) => of_literal(literal, unicode),
        Ast::ClassUnicode(class) if !unicode => Some(&class.span),
        Ast::ClassBracketed(class) => {
            let begins = &pattern[class.span.start.offset..];
            // The first `]` ends a class of JavaScript.
            let closes = begins.starts_with("[]") || begins.starts_with("[^]");
            if closes { Some(&class.span) } else { in_set(&class.kind, flags) }
        }
        Ast::Group(group) => match &group.kind {
            GroupKind::CaptureName { starts_with_p: true, .. } => Some(&group.span),
            GroupKind::NonCapturing(flags) if !flags.items.is_empty() => Some(&flags.span),
            _ => other_meaning(&group.ast, pattern, flags),
        },
        // `a**` and `a*+`.
        Ast::Repetition(repetition) if matches!(*repetition.ast, Ast::Repetition(_)) => Some(&repetition.span),
        Ast::Repetition(repetition) => other_meaning(&repetition.ast, pattern, flags),
        Ast::Concat(concat) => concat.asts.iter().find_map(|ast| other_meaning(ast, pattern, flags)),
        Ast::Alternation(alternation) => alternation.asts.iter().find_map(|ast| other_meaning(ast, pattern, flags)),
        _ => None,
    }
}

fn of_literal(literal: &Literal, unicode: bool) -> Option<&Span> {
    let differs = match &literal.kind {
        LiteralKind::HexBrace(HexLiteralKind::UnicodeShort) => !unicode,
        LiteralKind::HexBrace(_) | LiteralKind::HexFixed(HexLiteralKind::UnicodeLong) => true,
        LiteralKind::Special(SpecialLiteralKind::Bell) => true,
        _ => false,
    };
    differs.then_some(&literal.span)
}

fn in_set<'a>(set: &'a ClassSet, flags: &str) -> Option<&'a Span> {
    match set {
        ClassSet::BinaryOp(operation) if !flags.contains('v') => Some(&operation.span),
        ClassSet::BinaryOp(operation) => in_set(&operation.lhs, flags).or_else(|| in_set(&operation.rhs, flags)),
        ClassSet::Item(item) => in_item(item, flags),
    }
}

fn in_item<'a>(item: &'a ClassSetItem, flags: &str) -> Option<&'a Span> {
    let unicode = flags.contains(['u', 'v']);
    match item {
        ClassSetItem::Literal(literal) => of_literal(literal, unicode),
        ClassSetItem::Range(range) => of_literal(&range.start, unicode).or_else(|| of_literal(&range.end, unicode)),
        ClassSetItem::Ascii(class) => Some(&class.span),
        ClassSetItem::Unicode(class) if !unicode => Some(&class.span),
        ClassSetItem::Bracketed(class) if !flags.contains('v') => Some(&class.span),
        ClassSetItem::Bracketed(class) => in_set(&class.kind, flags),
        ClassSetItem::Union(union) => union.items.iter().find_map(|item| in_item(item, flags)),
        _ => None,
    }
}

/// Writes out `\d`, `\w`, `\s` and `.`, which have other characters in JavaScript than in Rust.
fn replace_classes(ast: &mut Ast, dot_matches_all: bool) {
    match ast {
        Ast::Dot(_) => *ast = class(if dot_matches_all { r"\s\S" } else { LINE_ENDS }, !dot_matches_all),
        Ast::ClassPerl(perl) => *ast = perl_class(perl),
        Ast::ClassBracketed(class) => replace_in_set(&mut class.kind),
        Ast::Concat(concat) => concat.asts.iter_mut().for_each(|ast| replace_classes(ast, dot_matches_all)),
        Ast::Alternation(alternation) => alternation.asts.iter_mut().for_each(|ast| replace_classes(ast, dot_matches_all)),
        Ast::Group(group) => replace_classes(&mut group.ast, dot_matches_all),
        Ast::Repetition(repetition) => replace_classes(&mut repetition.ast, dot_matches_all),
        _ => {}
    }
}

fn replace_in_set(set: &mut ClassSet) {
    match set {
        ClassSet::BinaryOp(operation) => {
            replace_in_set(&mut operation.lhs);
            replace_in_set(&mut operation.rhs);
        }
        ClassSet::Item(item) => replace_item(item),
    }
}

fn replace_item(item: &mut ClassSetItem) {
    match item {
        ClassSetItem::Perl(perl) => {
            if let Ast::ClassBracketed(class) = &perl_class(perl) {
                *item = ClassSetItem::Bracketed(class.clone());
            }
        }
        ClassSetItem::Bracketed(class) => replace_in_set(&mut class.kind),
        ClassSetItem::Union(union) => union.items.iter_mut().for_each(replace_item),
        _ => {}
    }
}

fn perl_class(perl: &ClassPerl) -> Ast {
    let characters = match perl.kind {
        ClassPerlKind::Digit => "0-9",
        ClassPerlKind::Space => SPACE,
        ClassPerlKind::Word => "0-9A-Za-z_",
    };
    class(characters, perl.negated)
}

/// Returns a class of characters, or of all others.
fn class(characters: &str, negated: bool) -> Ast {
    let class = format!("[{}{characters}]", if negated { "^" } else { "" });
    Parser::new().parse(&class).expect("our own classes are valid")
}
