// Sets the theme before the first paint. Not a module, because modules run after it.
const theme = localStorage.getItem('rejoin.theme');
if (theme) document.documentElement.dataset.theme = theme;
