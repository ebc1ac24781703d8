"""Makes tests/fixtures/metrics.json: what the public implementations say about made-up answers.

    pip install --no-deps pycocoevalcap==1.2 && pip install numpy        # CIDEr; its tokenizer needs Java
    python3 make_fixtures.py FOLDER > ../tests/fixtures/metrics.json

FOLDER holds `eval_mm` of github.com/QwenLM/Qwen-VL (aa00ed0): vqa_eval.py is imported, functions of the other scripts are taken out of
their files, because these start a model on import.
"""

import ast
import json
import random
import re
import sys
import warnings
from pathlib import Path
from typing import Optional

warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))

from pycocoevalcap.cider.cider_scorer import CiderScorer  # noqa: E402
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # noqa: E402
from vqa_eval import VQAEval  # noqa: E402


def functions(file: str, *names: str) -> dict:
    """Functions of a script, without running the rest of it."""
    tree = ast.parse((folder / file).read_text())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    assert len(found) == len(names), file
    space = {"Optional": Optional}
    exec(compile(ast.Module(found, []), file, "exec"), space)
    return space


rng = random.Random(8)
WORDS = "a the cat dog red Blue two three 3 10 1,000 2.5 dont isn't it's black/white (left) top-left New York U.S.A. yes No. none 50% ? !".split()


def phrase(longest: int = 4) -> str:
    text = rng.choice(["", " ", ""]) + rng.choice([" ", " ", "  ", "\n"]).join(rng.choices(WORDS, k=rng.randint(1, longest)))
    return text + rng.choice(["", ".", ",", " "])


def change(text: str) -> str:
    """A small mistake."""
    kind = rng.randrange(5)
    if kind == 0 or not text.strip():
        return text
    if kind == 1:
        return text.upper()
    at = rng.randrange(len(text))
    return {2: text[:at] + text[at + 1 :], 3: text[:at] + "x" + text[at:], 4: text + " " + rng.choice(WORDS)}[kind]


def vqa() -> list:
    cases = []
    for _ in range(150):
        pool = [phrase(2) for _ in range(rng.choice([1, 1, 2, 3]))]
        answers = [rng.choice(pool) for _ in range(10)]
        prediction = change(rng.choice(pool))

        class Questions:
            qa = {1: {"answers": [{"answer": a, "answer_id": i} for i, a in enumerate(answers)], "question_type": "", "answer_type": ""}}

            def getQuesIds(self):
                return [1]

        class Results:
            qa = {1: {"answer": prediction}}

        scorer = VQAEval(Questions(), Results(), n=10)
        scorer.updateProgress = lambda progress: None
        stdout, sys.stdout = sys.stdout, sys.stderr
        scorer.evaluate()
        sys.stdout = stdout
        cleaned = scorer.processDigitArticle(scorer.processPunctuation(prediction.replace("\n", " ").replace("\t", " ").strip()))
        cases.append({"prediction": prediction, "answers": answers, "cleaned": cleaned, "score": scorer.accuracy["overall"] / 100})
    return cases


def anls() -> list:
    # The loop of `evaluate_method` around the original's own distance.
    distance = functions("infographicsvqa_eval.py", "levenshtein_distance")["levenshtein_distance"]
    cases = []
    for _ in range(150):
        answers = [phrase() for _ in range(rng.randint(1, 3))]
        prediction = change(change(rng.choice(answers)))
        values = []
        for answer in answers:
            gt, det = (" ".join(text.strip().lower().split()) for text in (answer, prediction))
            length = max(len(answer.upper()), len(prediction.upper()))
            values.append(0.0 if length == 0 else distance(gt, det) / length)
        score = 1 - min(values)
        cases.append({"prediction": prediction, "answers": answers, "score": score if score >= 0.5 else 0.0})
    return cases


def relaxed() -> list:
    correct = functions("evaluate_vqa.py", "relaxed_correctness")["relaxed_correctness"]
    numbers = ["0", "0.0", "10", "10.5", "9.5", "9.49", "-10", "50%", "0.5", "0.52", "1e1", "1_000", "1000", " 10", "ten", "Yes", "yes", "%", "", "inf"]
    cases = []
    for prediction in numbers:
        for answer in numbers:
            # Called as evaluate_relaxed_accuracy does.
            cases.append({"prediction": prediction, "answers": [answer], "correct": bool(correct(prediction.strip(), answer))})
    return cases


def gqa() -> list:
    tree = ast.parse((folder / "evaluate_vqa.py").read_text())
    # The body of `for entry in merged_outputs` below `if 'gqa' in args.dataset`.
    loop = next(n for n in ast.walk(tree) if isinstance(n, ast.For) and any("is " in ast.unparse(s) and "split" in ast.unparse(s) for s in n.body))
    body = compile(ast.Module(loop.body, []), "gqa", "exec")
    sentences = ["It is a cat.", "The man is holding a cup of tea", "They are the dogs, I think", "banana split", "an apple of Eden!", "left", "", "This is"]
    sentences += [phrase(6) for _ in range(60)]
    cases = []
    for sentence in sentences:
        entry = {"answer": sentence}
        exec(body, {"entry": entry})
        cases.append({"sentence": sentence, "answer": entry["answer"]})
    return cases


def grounding() -> list:
    pattern = re.compile(r"\((.*?)\),\((.*?)\)")
    cases = []
    for _ in range(120):
        w, h = rng.randint(100, 800), rng.randint(100, 800)
        x1, y1 = rng.uniform(0, w * 0.6), rng.uniform(0, h * 0.6)
        truth = [x1, y1, x1 + rng.uniform(20, w * 0.4), y1 + rng.uniform(20, h * 0.4)]
        near = [int((v + rng.uniform(-0.12, 0.12) * s) / s * 1000) for v, s in zip(truth, (w, h, w, h))]
        answer = f"({near[0]},{near[1]}),({near[2]},{near[3]})"
        answer = rng.choice([answer, answer, answer, answer + "</box>", "the (red) cat " + answer, answer.replace(",", " , "), answer[:-3], answer[1:], ""])
        found = re.findall(pattern, answer)
        # As evaluate_grounding.py reads it; in 64 bits, where that has torch's 32.
        try:
            assert "," in found[0][0] and "," in found[0][1]
            x1, y1 = [float(v) for v in found[0][0].split(",")]
            x2, y2 = [float(v) for v in found[0][1].split(",")]
            box = [x1, y1, x2, y2]
        except Exception:
            box = [0.0] * 4
        box = [v / 999 * s for v, s in zip(box, (w, h, w, h))]
        shared = max(0, min(box[2], truth[2]) - max(box[0], truth[0])) * max(0, min(box[3], truth[3]) - max(box[1], truth[1]))
        union = (box[2] - box[0]) * (box[3] - box[1]) + (truth[2] - truth[0]) * (truth[3] - truth[1]) - shared
        cases.append({"answer": answer, "truth": truth, "width": w, "height": h, "correct": shared / union >= 0.5})
    return cases


def cider() -> dict:
    nouns, places = "cat dog man woman car tree house ball bird boat".split(), ["on the mat", "in a park", "near the red house", "at the sea"]
    def caption() -> str:
        return f"{rng.choice(['A', 'The', 'Two'])} {rng.choice(['small', 'red', 'old', ''])} {rng.choice(nouns)} {rng.choice(['is', 'sits', 'stands'])} {rng.choice(places)}{rng.choice(['.', '', '!'])}"
    sets = []
    for _ in range(30):
        references = [caption() for _ in range(rng.randint(1, 5))]
        sets.append({"caption": change(rng.choice(references)) if rng.random() < 0.6 else caption(), "references": references})
    sets += [{"caption": "", "references": ["A cat."]}, {"caption": "cat", "references": ["A man's hat, well worn.", "it isn't a cat"]}]
    words = lambda texts: PTBTokenizer().tokenize({i: [{"caption": t} for t in row] for i, row in enumerate(texts)})
    captions, references = words([[s["caption"]] for s in sets]), words([s["references"] for s in sets])
    scorer = CiderScorer(n=4, sigma=6.0)
    for i, s in enumerate(sets):
        s["caption_words"], s["reference_words"] = captions[i][0], references[i]
        scorer += (captions[i][0], references[i])
    mean, scores = scorer.compute_score()
    for s, score in zip(sets, scores):
        s["score"] = float(score)
    return {"mean": float(mean), "sets": sets}


made = {"vqa": vqa(), "anls": anls(), "relaxed": relaxed(), "gqa": gqa(), "grounding": grounding(), "cider": cider()}
print(json.dumps(made, indent=1, ensure_ascii=False))
