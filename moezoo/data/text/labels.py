"""Names and descriptions of the classes of known data sets, in English and Chinese. Class i is at index i."""

from __future__ import annotations

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_ENGLISH = (
    ("a photo of an airplane", "an airplane with wings in the sky or on a runway", "a jet or propeller plane"),
    ("a photo of an automobile", "a car on four wheels, seen from outside", "a passenger car on a road"),
    ("a photo of a bird", "a bird with feathers and a beak", "a bird on a branch, on the ground or in the air"),
    ("a photo of a cat", "a cat with pointed ears and whiskers", "a small furry pet cat"),
    ("a photo of a deer", "a deer with long legs among grass and trees", "a wild deer, perhaps with antlers"),
    ("a photo of a dog", "a dog with a snout and floppy ears", "a furry pet dog"),
    ("a photo of a frog", "a frog with smooth skin and bulging eyes", "a small green or brown frog"),
    ("a photo of a horse", "a horse with a mane and hooves", "a horse on a meadow or with a rider"),
    ("a photo of a ship", "a ship or boat on the water", "a large ship at sea"),
    ("a photo of a truck", "a truck with a cab and a big cargo box", "a heavy truck on a road"),
)
CIFAR10_CHINESE = (
    ("一张飞机的照片", "天空中的飞机"),
    ("一张汽车的照片", "路上的小汽车"),
    ("一张鸟的照片", "有羽毛的小鸟"),
    ("一张猫的照片", "尖耳朵的小猫"),
    ("一张鹿的照片", "树林里的鹿"),
    ("一张狗的照片", "毛茸茸的小狗"),
    ("一张青蛙的照片", "大眼睛的青蛙"),
    ("一张马的照片", "草地上的马"),
    ("一张船的照片", "水面上的大船"),
    ("一张卡车的照片", "运货的大卡车"),
)

FASHION_MNIST = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_ENGLISH = (
    ("a picture of a t-shirt", "a top with short sleeves and no buttons"),
    ("a picture of trousers", "a pair of long trousers with two legs"),
    ("a picture of a pullover", "a warm sweater with long sleeves, pulled over the head"),
    ("a picture of a dress", "a long dress, narrow at the waist"),
    ("a picture of a coat", "a coat with long sleeves that opens at the front"),
    ("a picture of a sandal", "an open shoe with straps"),
    ("a picture of a shirt", "a shirt with a collar and buttons"),
    ("a picture of a sneaker", "a flat sports shoe with laces"),
    ("a picture of a bag", "a handbag with a handle"),
    ("a picture of an ankle boot", "a boot that covers the ankle"),
)
FASHION_MNIST_CHINESE = (
    ("一张T恤的图片", "短袖上衣"),
    ("一张裤子的图片", "两条腿的长裤"),
    ("一张套头衫的图片", "长袖的毛衣"),
    ("一张连衣裙的图片", "收腰的长裙"),
    ("一张外套的图片", "前面开口的大衣"),
    ("一张凉鞋的图片", "露脚的带子鞋"),
    ("一张衬衫的图片", "有领子和扣子"),
    ("一张运动鞋的图片", "系鞋带的平底鞋"),
    ("一张包的图片", "带提手的手提包"),
    ("一张短靴的图片", "盖住脚踝的靴子"),
)

DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
DIGITS_ENGLISH = (
    ("the handwritten digit zero", "a closed ring with nothing inside"),
    ("the handwritten digit one", "a single upright stroke"),
    ("the handwritten digit two", "a curve at the top that ends in a flat line below"),
    ("the handwritten digit three", "two bows above each other, open to the left"),
    ("the handwritten digit four", "two strokes joined by a crossbar, one of them long and upright"),
    ("the handwritten digit five", "a flat top, a short upright and a bow below"),
    ("the handwritten digit six", "a long bend with a ring at the bottom"),
    ("the handwritten digit seven", "a flat top and a slanted stroke down"),
    ("the handwritten digit eight", "two rings above each other"),
    ("the handwritten digit nine", "a ring at the top with a tail down"),
)
DIGITS_CHINESE = (
    ("手写数字零", "一个空心的圆环"),
    ("手写数字一", "一条竖直的线"),
    ("手写数字二", "上弯下平的曲线"),
    ("手写数字三", "两个向左开的弧"),
    ("手写数字四", "交叉的横和竖"),
    ("手写数字五", "上平下弯的笔画"),
    ("手写数字六", "下面有圆圈"),
    ("手写数字七", "一横加一斜线"),
    ("手写数字八", "上下两个圆圈"),
    ("手写数字九", "上面有圆圈"),
)

CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip
CIFAR100_CHINESE = (
    "苹果", "观赏鱼", "婴儿", "熊", "河狸", "床", "蜜蜂", "甲虫", "自行车", "瓶子", "碗", "男孩",
    "桥", "公交车", "蝴蝶", "骆驼", "罐头", "城堡", "毛毛虫", "牛", "椅子", "黑猩猩", "时钟",
    "云", "蟑螂", "沙发", "螃蟹", "鳄鱼", "杯子", "恐龙", "海豚", "大象", "比目鱼", "森林",
    "狐狸", "女孩", "仓鼠", "房子", "袋鼠", "键盘", "灯", "割草机", "豹", "狮子", "蜥蜴",
    "龙虾", "男人", "枫树", "摩托车", "山", "老鼠", "蘑菇", "橡树", "橙子", "兰花",
    "水獭", "棕榈树", "梨", "皮卡车", "松树", "平原", "盘子", "罂粟花", "豪猪", "负鼠",
    "兔子", "浣熊", "鳐鱼", "道路", "火箭", "玫瑰", "大海", "海豹", "鲨鱼", "鼩鼱", "臭鼬", "摩天楼",
    "蜗牛", "蛇", "蜘蛛", "松鼠", "电车", "向日葵", "甜椒", "桌子", "坦克", "电话",
    "电视机", "老虎", "拖拉机", "火车", "鳟鱼", "郁金香", "乌龟", "衣柜", "鲸鱼", "柳树", "狼",
    "女人", "蠕虫",
)  # fmt: skip
