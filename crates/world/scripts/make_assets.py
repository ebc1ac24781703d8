"""Makes assets/: the atlas of pictograms, their names, and the fonts.

    npm pack emoji-datasource-google@16.0.0 emojibase-data@17.0.0 @fontsource/noto-sans@5.3.0 @fontsource/noto-serif@5.3.0 \
        @fontsource/jetbrains-mono@5.3.0 @fontsource/patrick-hand@5.3.0
    pip install pillow fonttools brotli
    python3 make_assets.py FOLDER_OF_THE_PACKAGES ../assets

The tarballs are read as they are. Pictograms stay 64 px, 12 in a row. Names come from emojibase, or from the list below where its
label is longer than what people say ("cat face").
"""

import io
import json
import sys
import tarfile
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

SIDE, COLUMNS = 64, 12

# Code point, English name ("" = emojibase's), Chinese name ("" = emojibase's), Chinese measure word, group.
KINDS = """
1F34E apple 苹果 个 fruit
1F34C banana 香蕉 根 fruit
1F349 watermelon 西瓜 块 fruit
1F353 strawberry 草莓 颗 fruit
1F34D pineapple 菠萝 个 fruit
1F34B lemon 柠檬 个 fruit
1F351 peach 桃子 个 fruit
1F350 pear 梨 个 fruit
1F955 carrot 胡萝卜 根 vegetable
1F33D corn 玉米 根 vegetable
1F344 mushroom 蘑菇 朵 vegetable
1F35E bread 面包 个 food
1F354 hamburger 汉堡 个 food
1F355 pizza 披萨 块 food
1F369 doughnut 甜甜圈 个 food
1F382 cake 蛋糕 个 food
1F95A egg 鸡蛋 个 food
1F431 cat 猫 只 animal
1F436 dog 狗 只 animal
1F41F fish 鱼 条 animal
1F426 bird 鸟 只 animal
1F434 horse 马 匹 animal
1F42E cow 牛 头 animal
1F437 pig 猪 头 animal
1F430 rabbit 兔子 只 animal
1F43B bear 熊 只 animal
1F43C panda 熊猫 只 animal
1F42F tiger 老虎 只 animal
1F981 lion 狮子 只 animal
1F435 monkey 猴子 只 animal
1F414 chicken 鸡 只 animal
1F427 penguin 企鹅 只 animal
1F438 frog 青蛙 只 animal
1F422 turtle 乌龟 只 animal
1F40D snake 蛇 条 animal
1F418 elephant 大象 头 animal
1F419 octopus 章鱼 只 animal
1F98B butterfly 蝴蝶 只 animal
1F41D bee 蜜蜂 只 animal
1F433 whale 鲸鱼 头 animal
1F980 crab 螃蟹 只 animal
1F40C snail 蜗牛 只 animal
1F989 owl 猫头鹰 只 animal
1F333 tree 树 棵 plant
1F335 cactus 仙人掌 棵 plant
1F33B sunflower 向日葵 朵 plant
1F339 rose 玫瑰 朵 plant
1F340 clover 四叶草 棵 plant
1F697 car 汽车 辆 vehicle
1F68C bus 公交车 辆 vehicle
1F69A truck 卡车 辆 vehicle
1F692 fire_engine 消防车 辆 vehicle
1F6B2 bicycle 自行车 辆 vehicle
2708-FE0F airplane 飞机 架 vehicle
1F681 helicopter 直升机 架 vehicle
26F5 sailboat 帆船 艘 vehicle
1F680 rocket 火箭 枚 vehicle
1F682 train 火车 列 vehicle
1F69C tractor 拖拉机 辆 vehicle
1F3E0 house 房子 座 building
1F3F0 castle 城堡 座 building
26FA tent 帐篷 顶 building
1F511 key 钥匙 把 tool
1F528 hammer 锤子 把 tool
1F4A1 lamp 灯 盏 tool
23F0 clock 闹钟 个 tool
1F4F7 camera 相机 台 tool
1F4D5 book 书 本 tool
1F4BB laptop 电脑 台 tool
1F4F1 phone 手机 部 tool
1FA91 chair 椅子 把 furniture
1F6AA door 门 扇 furniture
1F3B8 guitar 吉他 把 instrument
1F3BB violin 小提琴 把 instrument
1F941 drum 鼓 面 instrument
1F3BA trumpet 小号 把 instrument
26BD football 足球 个 toy
1F3C0 basketball 篮球 个 toy
1F388 balloon 气球 个 toy
1F381 gift 礼物 份 toy
1F451 crown 皇冠 顶 clothing
1F455 shirt 衬衫 件 clothing
1F45F shoe 鞋 只 clothing
1F392 backpack 背包 个 clothing
2614 umbrella 雨伞 把 tool
1F56F-FE0F candle 蜡烛 根 tool
1F48E gem 宝石 颗 tool
1F514 bell 铃铛 个 tool
2600-FE0F sun 太阳 个 sky
1F319 moon 月亮 个 sky
2601-FE0F cloud 云 朵 sky
26C4 snowman 雪人 个 toy
"""

FONTS = [
    ("noto-sans", 700, "NotoSans-Bold"),
    ("noto-serif", 400, "NotoSerif-Regular"),
    ("jetbrains-mono", 700, "JetBrainsMono-Bold"),
    ("patrick-hand", 400, "PatrickHand-Regular"),
]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .,:!?%$+-=/&'()"


def package(folder: Path, stem: str) -> tarfile.TarFile:
    (path,) = folder.glob(f"{stem}-[0-9]*.tgz")
    return tarfile.open(path)


def read(tar: tarfile.TarFile, name: str) -> bytes:
    return tar.extractfile(f"package/{name}").read()


def main(packages: Path, out: Path) -> None:
    names = package(packages, "emojibase-data")
    labels = {lang: {e["hexcode"]: e["label"] for e in json.loads(read(names, f"{lang}/data.json"))} for lang in ("en", "zh")}
    art = package(packages, "emoji-datasource-google")

    kinds = []
    lines = [line.split() for line in KINDS.strip().splitlines()]
    atlas = Image.new("RGBA", (SIDE * COLUMNS, SIDE * -(-len(lines) // COLUMNS)))
    for index, (code, en, zh, measure, group) in enumerate(lines):
        picture = Image.open(io.BytesIO(read(art, f"img/google/64/{code.lower()}.png"))).convert("RGBA")
        assert picture.size == (SIDE, SIDE), code
        atlas.paste(picture, (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
        base = code.removesuffix("-FE0F")
        kinds.append(
            {
                "code": code,
                "label": labels["en"][base],
                "label_zh": labels["zh"][base],
                "en": en.replace("_", " "),
                "zh": zh,
                "measure": measure,
                "group": group,
            }
        )
    # 255 colours and a mask of alpha would lose the soft edges: keep full colour, let the encoder try hard.
    atlas.save(out / "atlas.png", optimize=True)
    text = ",\n  ".join(json.dumps(kind, ensure_ascii=False) for kind in kinds)
    (out / "kinds.json").write_text(f"[\n  {text}\n]\n", encoding="utf-8")

    for name, weight, file in FONTS:
        tar = package(packages, f"fontsource-{name}")
        font = TTFont(io.BytesIO(read(tar, f"files/{name}-latin-{weight}-normal.woff2")))
        font.flavor = None
        options = subset.Options(layout_features=[], hinting=False, name_IDs=[0, 1, 2, 13, 14])
        cut = subset.Subsetter(options)
        cut.populate(text=LETTERS)
        cut.subset(font)
        font.save(out / "fonts" / f"{file}.ttf")
        (out / "fonts" / f"{file}.OFL.txt").write_bytes(read(tar, "LICENSE"))


main(Path(sys.argv[1]), Path(sys.argv[2]))
