// Before the first paint, so that nothing flashes: not a module, and as short as it is.
const theme = localStorage.getItem('rejoin.theme');
if (theme) document.documentElement.dataset.theme = theme;
